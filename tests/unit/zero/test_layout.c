#include "zero/layout.h"

#include "test.h"

/* name, elements; frozen where it begins with '!' */
static void declare(ds_params **p, const char *const *names, const int64_t *sizes, int n) {
  ds_error err;
  CHECK_OK(ds_params_create(p, &err), err);
  for (int i = 0; i < n; i++) ds_params_add(*p, names[i], 1, &sizes[i], DS_INIT_ZEROS, 0);
}

static const char *const names[] = {"wte.weight",    "h.0.ln.weight", "h.0.fc.weight",
                                    "h.1.ln.weight", "h.1.fc.weight", "head.weight"};
static const int64_t sizes[] = {1000, 10, 500, 10, 500, 77};
static const bool none[6];

static void test_units(void) {
  ds_params *p;
  ds_unit_layout l;
  ds_error err;
  declare(&p, names, sizes, 6);
  /* A unit ends where a module does, once it has enough. */
  ds_layout_rules rules = {.shards = 3, .least = 100, .most = 5000, .align = 64};
  CHECK_OK(ds_layout_init(&l, p, none, &rules, &err), err);
  CHECK(l.n_units == 4);
  CHECK(l.units[1].count == 2 && l.unit_of[1] == 1 && l.unit_of[2] == 1);
  CHECK(l.offset[2] == l.offset[1] + 64);
  CHECK(l.total == l.trained);
  for (int u = 0; u < l.n_units; u++)
    CHECK((l.units[u].place.end - l.units[u].place.begin) % (3 * 64) == 0);
  ds_layout_finish(&l);
  /* None is longer than `most`, but for a parameter that is so by itself. */
  rules.least = rules.most = 600;
  CHECK_OK(ds_layout_init(&l, p, none, &rules, &err), err);
  CHECK(l.n_units == 4 && l.units[0].count == 1 && l.units[1].count == 2 && l.units[3].count == 1);
  ds_layout_finish(&l);
  /* Small parameters apart, all together, and first. */
  rules = (ds_layout_rules){.shards = 2, .least = 1, .most = 5000, .align = 64, .persistent = 10};
  CHECK_OK(ds_layout_init(&l, p, none, &rules, &err), err);
  CHECK(l.units[0].persistent && l.units[0].count == 2 && !l.units[1].persistent);
  CHECK(l.unit_of[1] == l.unit_of[3] && l.unit_of[2] != l.unit_of[4]);
  ds_layout_finish(&l);
  /* Frozen ones last. */
  bool frozen[6] = {true};
  rules.persistent = 0;
  CHECK_OK(ds_layout_init(&l, p, frozen, &rules, &err), err);
  CHECK(l.unit_of[0] == l.n_units - 1 && l.units[l.n_units - 1].frozen);
  CHECK(l.offset[0] == l.trained && l.total > l.trained);
  ds_layout_finish(&l);
  ds_params_destroy(p);
}

/* Every element is on exactly one rank, in the order of ranks; own parts fill [0, total / shards). */
static void test_parts(int shards, int64_t least, int64_t most, int64_t align) {
  ds_params *p;
  ds_unit_layout l;
  ds_error err;
  declare(&p, names, sizes, 6);
  ds_layout_rules rules = {.shards = shards, .least = least, .most = most, .align = align};
  CHECK_OK(ds_layout_init(&l, p, none, &rules, &err), err);
  for (int i = 0; i < 6; i++) {
    int64_t at = 0;
    for (int r = 0; r < shards; r++) {
      ds_range part = ds_layout_part(&l, p, i, r);
      if (part.begin == part.end) continue;
      CHECK(part.begin == at);
      at = part.end;
    }
    CHECK(at == sizes[i]);
  }
  int64_t local = 0, place = 0;
  for (int u = 0; u < l.n_units; u++) {
    CHECK(l.units[u].place.begin == place && ds_layout_local(&l, u) == local);
    place = l.units[u].place.end;
    local += ds_layout_shard(&l, u);
    CHECK(ds_layout_shard(&l, u) % align == 0);
    CHECK(ds_layout_own(&l, u, shards - 1).end == place);
  }
  CHECK(place == l.total && local == l.total / shards);
  ds_layout_finish(&l);
  ds_params_destroy(p);
}

static void test_too_large(void) {
  ds_params *p;
  ds_unit_layout l;
  ds_error err;
  const char *one[] = {"w"};
  const int64_t some[] = {10};
  declare(&p, one, some, 1);
  ds_layout_rules rules = {.shards = INT32_MAX, .least = 1, .most = 1, .align = INT64_MAX / 8};
  CHECK_FAILS(ds_layout_init(&l, p, none, &rules, &err), DS_ERR_INVALID, err,
              "too many parameters");
  ds_params_destroy(p);
}

int main(void) {
  test_units();
  for (int shards = 1; shards <= 7; shards++) {
    test_parts(shards, 100, 5000, 64);
    test_parts(shards, 1, 1, 256);
    test_parts(shards, 5000, 5000, 64);
  }
  test_too_large();
  return test_result();
}
