/* progress.h - what `ds train` shows: one updating line on a terminal, plain lines elsewhere, or
 * JSON. */
#ifndef DS_CLI_PROGRESS_H
#define DS_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct progress {
  bool json, terminal;
  int64_t first, last; /* steps of this run: first+1 .. last */
  double start, shown; /* seconds */
  double rate;         /* tokens/s, smoothed */
} progress;

typedef struct progress_step {
  int64_t step;
  double loss, lr, grad_norm, seconds;
  int64_t tokens;
} progress_step;

void progress_start(progress *p, bool json, int64_t first, int64_t last);
void progress_show(progress *p, const progress_step *s);
/* Ends the updating line. */
void progress_end(progress *p);

#endif
