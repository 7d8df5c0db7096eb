#include "suite.h"
void ranks_run(const suite *s, on_record_fn *on_record, void *ctx) {
  (void)s, (void)on_record, (void)ctx;
}
int suite_rank(const suite *s, const char *folder) {
  (void)s, (void)folder;
  return 2;
}
