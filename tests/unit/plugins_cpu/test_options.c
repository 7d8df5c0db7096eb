/* test_options.c - the cpu plugin's options. The plugin exports nothing but its query, so its files
 * are compiled in here; isa.c then knows of no kernels beyond "base". */
#include "test.h"

#include <unistd.h>

#include "../../../plugins/cpu/cpu.c"
#include "../../../plugins/cpu/isa.c"
#include "../../../plugins/cpu/options.c"

static ds_cpu_options o;
static ds_error err;

static void test_defaults(void) {
  setenv("OMP_NUM_THREADS", "3,2", 1);
  CHECK_OK(ds_cpu_options_parse(NULL, &o, &err), err);
  CHECK(o.threads == 3 && o.isa == DS_ISA_BASE && o.huge_pages && o.shared_memory);
  setenv("OMP_NUM_THREADS", "many", 1);
  CHECK_OK(ds_cpu_options_parse("", &o, &err), err);
  CHECK(o.threads >= 1 && o.threads <= sysconf(_SC_NPROCESSORS_CONF));
}

static void test_each(void) {
  CHECK_OK(
      ds_cpu_options_parse("{\"threads\": 7, \"isa\": \"base\", \"huge_pages\": false}", &o, &err),
      err);
  CHECK(o.threads == 7 && o.isa == DS_ISA_BASE && !o.huge_pages);
  CHECK_OK(ds_cpu_options_parse(" {\"isa\": \"auto\"} ", &o, &err), err);
}

static void refused(const char *text, const char *says) {
  CHECK_FAILS(ds_cpu_options_parse(text, &o, &err), DS_ERR_INVALID, err, says);
}

static void test_refusals(void) {
  refused("{\"thread\": 1}", "there is no \"thread\"; known are \"threads\", \"isa\"");
  refused("{\"threads\": 1, \"isa\": \"auto\", \"threads\": 2}", "\"threads\" stands there twice");
  refused("{\"threads\": 0}", "whole number from 1");
  refused("{\"threads\": 1.5}", "whole number from 1");
  refused("{\"threads\": 1e300}", "whole number from 1");
  refused("{\"threads\": \"2\"}", "whole number from 1");
  refused("{\"isa\": \"avx2\"}", "at most \"base\"");
  refused("{\"isa\": \"mmx\"}", "must be \"auto\"");
  refused("{\"isa\": 2}", "must be \"auto\"");
  refused("{\"huge_pages\": 1}", "true or false");
  refused("{\"shared_memory\": 1}", "true or false");
  refused("[]", "must be a JSON object");
  refused("{\"threads\": 1} x", "not JSON from \"x\"");
  refused("{\"threads\":", "not JSON");
}

int main(void) {
  test_defaults();
  test_each();
  test_refusals();
  return test_result();
}
