/* cases_ops.c - runs the cases of every op in ops_table. */
#include "harness.h"

void cases_ops(conformance *k) {
  for (int i = 0; i < ops_count; i++) {
    const op_spec *spec = &ops_table[i];
    for (int v = 0; v < spec->variants && check_wanted(k, spec->name); v++) {
      tally t = {0};
      char dtype[24];
      for (int n = 0; n < k->cases && k->plugin->ops; n++) {
        test_case c;
        case_init(&c, spec, v, n, k->seed);
        spec->make(&c);
        check_case(k, &c, &t);
        case_finish(&c);
      }
      if (!k->plugin->ops) check_unsupported(&t, "the plugin has no ops table");
      ops_variant_name(spec, v, dtype, sizeof dtype);
      check_report(k, &t, spec->name, dtype);
    }
  }
}
