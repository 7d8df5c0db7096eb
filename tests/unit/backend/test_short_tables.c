/* test_short_tables.c - a plugin's table of any size: refused with a reason, or it works, and core
 * never reads further than the size that it says (tests/plugins/short.c).
 *
 * Each size is a process of its own: a plugin is asked once, and reading too far kills it. */
#include <sys/wait.h>

#include "backend/plugin_folder.h"

#define POINTER sizeof(void *)

static const struct {
  const char *name;
  size_t whole;
} tables[] = {{"plugin", sizeof(ds_plugin)},    {"device", sizeof(ds_device_table)},
              {"gemm", sizeof(ds_gemm_table)},  {"quant", sizeof(ds_quant_table)},
              {"comm", sizeof(ds_comm_table)},  {"ops", sizeof(ds_ops_table)},
              {"graph", sizeof(ds_graph_table)}};

static const void *table_of(const ds_plugin *p, const char *name) {
  if (strcmp(name, "device") == 0) return p->device;
  if (strcmp(name, "gemm") == 0) return p->gemm;
  if (strcmp(name, "quant") == 0) return p->quant;
  if (strcmp(name, "comm") == 0) return p->comm;
  if (strcmp(name, "ops") == 0) return p->ops;
  if (strcmp(name, "graph") == 0) return p->graph;
  return p;
}

/* What the plugin did not say is not there; what it said is. */
static void check_slots(const char *name, const void *table, size_t whole, size_t told) {
  CHECK(table != NULL);
  for (size_t at = sizeof(ds_table); table && at < whole; at += POINTER) {
    void *slot;
    memcpy(&slot, (const char *)table + at, sizeof slot);
    bool text = strcmp(name, "plugin") == 0 && at < offsetof(ds_plugin, device); /* "" if absent */
    if (!text) CHECK((slot != NULL) == (at + POINTER <= told));
  }
}

static void check_gemm(ds_backend *b, float *x, const float *host) {
  float y[4] = {0};
  ds_error err;
  ds_gemm g = {.size = sizeof g,
               .m = 2,
               .n = 2,
               .k = 2,
               .lda = 2,
               .ldb = 2,
               .ldc = 2,
               .batch = 1,
               .alpha = 1,
               .a = x,
               .b = x,
               .c = x + 4};
  CHECK_OK(ds_backend_gemm(b, &g, &err), err);
  CHECK(ds_backend_pack_size(b, &g) == 0);
  CHECK_OK(ds_backend_download(b, y, x + 4, sizeof y, &err), err);
  for (int i = 0; i < 4; i++)
    CHECK(y[i] == host[i / 2 * 2] * host[i % 2] + host[i / 2 * 2 + 1] * host[2 + i % 2]);
}

static void check_op(ds_backend *b, float *x, const float *host) {
  float y[4] = {0};
  ds_error err;
  ds_tensor in = {x, DS_F32, 1, {4}, {1}}, out = {x + 4, DS_F32, 1, {4}, {1}};
  const ds_tensor *ins[] = {&in, &in}, *outs[] = {&out};
  ds_op op = {.size = sizeof op, .id = DS_OP_ADD, .n_in = 2, .n_out = 1, .in = ins, .out = outs};
  CHECK_OK(ds_backend_op(b, &op, &err), err);
  CHECK_OK(ds_backend_download(b, y, x + 4, sizeof y, &err), err);
  for (int i = 0; i < 4; i++) CHECK(y[i] == 2 * host[i]);
}

/* On the tables as they were adopted, or on the reference where they are not there. */
static void check_works(ds_backend *b) {
  const float host[4] = {1, 2, 3, 5};
  void *p = NULL;
  ds_error err;
  CHECK_OK(ds_backend_alloc(b, 64, &p, &err), err);
  if (!p) return;
  CHECK_OK(ds_backend_fill(b, p, 0, 64, &err), err);
  CHECK_OK(ds_backend_upload(b, p, host, sizeof host, &err), err);
  check_op(b, p, host);
  check_gemm(b, p, host);
  float copied[4] = {0};
  CHECK_OK(ds_backend_copy(b, (float *)p + 8, p, sizeof host, &err), err);
  CHECK_OK(ds_backend_download(b, copied, (float *)p + 8, sizeof copied, &err), err);
  CHECK(memcmp(copied, host, sizeof host) == 0);
  const ds_plugin *plugin = ds_backend_plugin(b);
  ds_comm_world world = {.size = sizeof world};
  if (plugin->comm) {
    CHECK_OK(plugin->comm->world(&world, &err), err);
    CHECK(world.world_size == 1);
  }
  ds_backend_free(b, p, 64);
}

enum { WORKS = 0, FAILED = 1, REFUSED = 2 };

static int one_size(size_t i, unsigned long long told, const plugin_folder *f) {
  char text[40];
  ds_backend *b;
  ds_error err;
  snprintf(text, sizeof text, "%s %llu", tables[i].name, told);
  setenv("DS_TEST_SHORT", text, 1);
  ds_status status =
      open_backend("{\"name\": \"full\", \"fallback\": \"allow\"}", f, NULL, &b, &err);
  if (status != DS_OK) {
    /* The reason names the table and what is wrong with it. */
    snprintf(text, sizeof text, "its %s table", tables[i].name);
    bool named = strstr(err.message, text) || strstr(err.message, "its note has the name") ||
                 strstr(err.message, "it has no device table");
    if (!named) fprintf(stderr, "%s %llu: %s\n", tables[i].name, told, err.message);
    return named ? REFUSED : FAILED;
  }
  check_slots(tables[i].name, table_of(ds_backend_plugin(b), tables[i].name), tables[i].whole,
              told);
  check_works(b);
  ds_backend_close(b);
  return test_failures ? FAILED : WORKS;
}

static int in_child(size_t i, unsigned long long told, const plugin_folder *f) {
  int status = 0;
  pid_t child = fork();
  if (child == 0) _exit(one_size(i, told, f));
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  int got = WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
  bool good = got == WORKS || got == REFUSED;
  CHECK(good);
  if (!good)
    fprintf(stderr, "table %s of %llu bytes: %s %d\n", tables[i].name, told,
            WIFSIGNALED(status) ? "signal" : "exit", WIFSIGNALED(status) ? WTERMSIG(status) : got);
  return got;
}

int main(int argc, char **argv) {
  static const unsigned long long absurd[] = {0, 1, 4, 7, 65537, 1 << 20, 1ull << 31, 0xffffffff};
  plugin_folder f;
  unsetenv("DS_BACKEND");
  plugin_folder_make(&f);
  /* Another build of the plugin, for tests of this test. */
  if (argc > 1)
    CHECK(symlink(argv[1], plugin_folder_name(&f, "short")) == 0);
  else
    plugin_folder_link(&f, "short");
  for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
    size_t whole = tables[i].whole;
    int works = 0;
    for (size_t told = sizeof(ds_table); told <= whole; told += POINTER)
      works += in_child(i, told, &f) == WORKS;
    for (size_t told = sizeof(ds_table) + 1; told < whole; told += 13) in_child(i, told, &f);
    CHECK(works >= 1);
    CHECK(in_child(i, sizeof(ds_table), &f) == REFUSED);
    CHECK(in_child(i, whole, &f) == WORKS);
    CHECK(in_child(i, whole + 1, &f) == WORKS); /* of a later version */
    CHECK(in_child(i, whole + 5 * POINTER, &f) == WORKS);
    CHECK(in_child(i, 4096, &f) == WORKS);
    for (size_t j = 0; j < sizeof absurd / sizeof *absurd; j++)
      CHECK(in_child(i, absurd[j], &f) == REFUSED);
  }
  plugin_folder_remove(&f);
  return TEST_RESULT();
}
