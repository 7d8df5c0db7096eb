/* The loss scale, step by step, as DeepSpeed's DynamicLossScaler.update_scale has it: tables worked
 * out by hand from its rules. o: the step overflowed, g: it went well. */
#include "test.h"

#include "optim/loss_scaler.h"

typedef struct row {
  const char *what, *steps;
  ds_loss_scaler_rules rules;
  double scales[8]; /* after each step; 0: it is refused */
} row;

static const row rows[] = {
    {"without hysteresis each overflow halves",
     "ooog",
     {.initial_power = 4, .window = 1000, .hysteresis = 1, .least = 1},
     {8, 4, 2, 2}},
    {"the first overflow is borne; what is used up stays so",
     "ooogo",
     {.initial_power = 4, .window = 1000, .hysteresis = 2, .least = 1},
     {16, 8, 4, 4, 2}},
    {"a good step makes up for it only where that is asked for",
     "ogogoo",
     {.initial_power = 4, .window = 1000, .hysteresis = 2, .least = 1},
     {16, 16, 8, 8, 4, 2}},
    {"consecutive",
     "ogogoo",
     {.initial_power = 4, .window = 1000, .hysteresis = 2, .consecutive = true, .least = 1},
     {16, 16, 16, 16, 16, 8}},
    {"grows after each window, counted from the step before the first",
     "ggggggg",
     {.initial_power = 4, .window = 3, .hysteresis = 1, .least = 1},
     {16, 16, 32, 32, 32, 64, 64}},
    {"an overflow begins the window anew",
     "goggggg",
     {.initial_power = 4, .window = 3, .hysteresis = 1, .least = 1},
     {16, 8, 8, 8, 16, 16, 16}},
    {"a borne one too; a whole window brings hysteresis back",
     "oggooo",
     {.initial_power = 4, .window = 2, .hysteresis = 2, .least = 1},
     {16, 16, 32, 32, 16, 8}},
    {"never below the least, and no further",
     "oooo",
     {.initial_power = 4, .window = 1000, .hysteresis = 1, .least = 5},
     {8, 5, 0, 0}},
    {"at the least, what hysteresis bears is borne",
     "oogo",
     {.initial_power = 4, .window = 1000, .hysteresis = 2, .least = 16},
     {16, 0, 16, 0}},
    {"a fixed scale never moves",
     "ooggo",
     {.fixed = 96, .initial_power = 4, .window = 1, .hysteresis = 1, .least = 1},
     {96, 96, 96, 96, 96}},
    {"stays within f32",
     "gg",
     {.initial_power = 126, .window = 1, .hysteresis = 1, .least = 1},
     {0x1p126, 0x1p126}},
};

static void check_row(const row *r) {
  int before = test_failures;
  ds_loss_scaler s = ds_loss_scaler_begin(&r->rules);
  for (int i = 0; r->steps[i]; i++) {
    ds_loss_scaler old = s;
    bool moved = ds_loss_scaler_update(&s, r->steps[i] == 'o');
    CHECK(moved == (r->scales[i] > 0));
    if (moved) CHECK_NEAR(s.scale, r->scales[i], 0);
    if (!moved)
      CHECK(s.scale == old.scale && s.step == old.step && s.left == old.left &&
            s.overflow == old.overflow);
  }
  if (test_failures != before) fprintf(stderr, "  in \"%s\"\n", r->what);
}

int main(void) {
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) check_row(&rows[i]);
  ds_loss_scaler off = ds_loss_scaler_off();
  CHECK(off.scale == 1 && !ds_loss_scaler_dynamic(&off));
  return test_result();
}
