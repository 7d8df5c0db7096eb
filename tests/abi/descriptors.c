/* descriptors.c - what core hands a plugin, in every size, flush against memory that can't be read.
 *
 *     descriptors PLUGIN.so | reference
 *
 * A host of another version has shorter or longer structs than the plugin was compiled with.
 * Shorter than what was published first is no host's: it works or is refused. From there on it
 * works, and a longer one, whose end the plugin can't know, as well. Nothing is read or written
 * past the size told: that ends the process, and this test says in which struct, of which size.
 *
 * Compiled with -DNEXT for the header that next_version.py derives, where every struct has one more
 * field than was published.
 */
#include "backend/reference/reference.h"

#include <dlfcn.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef NEXT
#define PUBLISHED(type) offsetof(type, next)
#else
#define PUBLISHED(type) sizeof(type)
#endif

enum { WORKS, REFUSED, WRONG };
enum { M = 20, ROWS = 6, COLS = 8, MORE = 64 };

typedef struct subject {
  ds_plugin_query_fn *query; /* NULL: the reference, which core has inside */
  const ds_plugin *plugin;
  ds_device *device;
  ds_stream *stream;
  float *memory; /* the device's, of MEMORY floats; the host may read and write it */
} subject;
enum { MEMORY = 4096 };

static struct progress {
  char what[32];
  size_t size;
} * progress; /* shared with the children */

/* ---------------------------------------------------------------- memory with an end */

/* `size` bytes that end where memory does, as far as alignment lets them: the first of `from`, then
 * bytes of 0xa5. */
static void *flush(const void *from, size_t whole, size_t size) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (size + page - 1) / page * page;
  char *p = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(p + room, page, PROT_NONE) != 0) {
    perror("mmap");
    exit(2);
  }
  char *at = p + (room - size) / 8 * 8;
  memset(at, 0xa5, size);
  memcpy(at, from, size < whole ? size : whole);
  if (size >= sizeof(uint32_t)) *(uint32_t *)(void *)at = (uint32_t)size;
  return at;
}

static ds_error err;

/* A call's answer: DS_OK, or a refusal that says why. */
static int judge(ds_status status, int right) {
  if (status == DS_OK) return right ? WORKS : WRONG;
  return (status == DS_ERR_INVALID || status == DS_ERR_UNSUPPORTED) && err.message[0] ? REFUSED
                                                                                      : WRONG;
}

static int is_near(double a, double b) {
  return fabs(a - b) <= 1e-4 * (1 + fabs(b));
}

/* ---------------------------------------------------------------- one struct each */

static float value(int i) {
  return (float)((i * 37 + 11) % 19 - 9) / 8;
}

static int try_gemm(subject *s, size_t size) {
  float *a = s->memory, *b = a + M * COLS, *c = b + ROWS * COLS;
  ds_gemm g = {.flags = DS_GEMM_TRANS_B,
               .m = M,
               .n = ROWS,
               .k = COLS,
               .lda = COLS,
               .ldb = COLS,
               .ldc = ROWS,
               .batch = 1,
               .alpha = 1,
               .a = a,
               .b = b,
               .c = c};
  const ds_gemm *given = flush(&g, sizeof g, size);
  for (int i = 0; i < M * COLS + ROWS * COLS; i++) a[i] = value(i);
  int supported = s->plugin->gemm->supports(s->device, given);
  if (s->plugin->gemm->pack_size) (void)s->plugin->gemm->pack_size(s->device, given);
  ds_status status = s->plugin->gemm->run(s->stream, given, &err);
  if ((status == DS_OK) != (supported != 0)) return WRONG;
  int right = 1;
  for (int i = 0; i < M * ROWS && status == DS_OK; i++) {
    double sum = 0;
    for (int p = 0; p < COLS; p++) sum += (double)a[i / ROWS * COLS + p] * b[i % ROWS * COLS + p];
    right &= is_near(c[i], sum);
  }
  return judge(status, right);
}

static int try_op(subject *s, size_t size) {
  float *x = s->memory, *y = x + COLS;
  ds_tensor in = {x, DS_F32, 1, {COLS}, {1}}, out = {y, DS_F32, 1, {COLS}, {1}};
  const ds_tensor *ins[] = {&in, &in}, *outs[] = {&out};
  ds_op op = {.id = DS_OP_ADD, .n_in = 2, .n_out = 1, .in = ins, .out = outs};
  const ds_op *given = flush(&op, sizeof op, size);
  for (int i = 0; i < COLS; i++) x[i] = value(i);
  int supported = s->plugin->ops->supports(s->device, given);
  if (s->plugin->ops->workspace) (void)s->plugin->ops->workspace(s->device, given);
  ds_status status = s->plugin->ops->run(s->stream, given, &err);
  if ((status == DS_OK) != (supported != 0)) return WRONG;
  int right = 1;
  for (int i = 0; i < COLS && status == DS_OK; i++) right &= y[i] == 2 * x[i];
  return judge(status, right);
}

/* One matrix, quantized by rows, and its product; a size for each of the two structs. */
static int quantized(subject *s, size_t q_size, size_t g_size) {
  const ds_quant_table *t = s->plugin->quant;
  float *x = s->memory, *back = x + ROWS * COLS, *scales = back + ROWS * COLS;
  float *a = scales + ROWS, *c = a + M * COLS;
  ds_quant q = {.qtype = DS_I8,
                .dtype = DS_F32,
                .rows = ROWS,
                .cols = COLS,
                .group = COLS,
                .values = c + M * ROWS,
                .scales = scales};
  ds_quant_gemm g = {.m = M, .lda = COLS, .ldc = ROWS, .a = a, .c = c};
  const ds_quant *given = flush(&q, sizeof q, q_size);
  const ds_quant_gemm *product = flush(&g, sizeof g, g_size);
  for (int i = 0; i < ROWS * COLS; i++) x[i] = value(i);
  for (int i = 0; i < M * COLS; i++) a[i] = value(i + 5);
  int supported = t->supports(s->device, given, product);
  ds_status status = t->quantize(s->stream, given, x, &err);
  if (status == DS_OK) status = t->dequantize(s->stream, given, back, &err);
  int right = 1;
  for (int i = 0; i < ROWS * COLS && status == DS_OK; i++)
    right &= fabsf(back[i] - x[i]) <= scales[i / COLS] * 0.501f;
  if (status == DS_OK) status = t->gemm(s->stream, given, product, &err);
  if ((status == DS_OK) != (supported != 0)) return WRONG;
  for (int i = 0; i < M * ROWS && status == DS_OK; i++) {
    double sum = 0;
    for (int p = 0; p < COLS; p++)
      sum += (double)a[i / ROWS * COLS + p] * back[i % ROWS * COLS + p];
    right &= is_near(c[i], sum);
  }
  return judge(status, right);
}

static int try_quant(subject *s, size_t size) {
  return quantized(s, size, sizeof(ds_quant_gemm));
}

static int try_quant_gemm(subject *s, size_t size) {
  return quantized(s, sizeof(ds_quant), size);
}

static int try_info(subject *s, size_t size) {
  ds_device_info whole = {.size = sizeof whole}, blank = {0};
  ds_device_info *given = flush(&blank, sizeof blank, size);
  if (s->plugin->device->info(s->device, &whole, &err) != DS_OK) return WRONG;
  ds_status status = s->plugin->device->info(s->device, given, &err);
  size_t known = size < PUBLISHED(ds_device_info) ? size : PUBLISHED(ds_device_info);
  size_t steady = offsetof(ds_device_info, memory_free); /* what is free changes */
  size_t compared = known < steady ? known : steady;
  int right = given->size <= size;
  if (compared > sizeof whole.size)
    right &= memcmp(&given->flags, &whole.flags, compared - sizeof whole.size) == 0;
  return judge(status, right);
}

static int try_world(subject *s, size_t size) {
  ds_comm_world blank = {0}, *given = flush(&blank, sizeof blank, size);
  ds_status status = s->plugin->comm->world(given, &err);
  int right = given->size <= size;
  if (size >= 8) right &= given->rank == 0;
  if (size >= 12) right &= given->world_size == 1;
  return judge(status, right);
}

static ds_status kv_set(void *ctx, const char *key, const void *v, size_t bytes, ds_error *e) {
  (void)ctx, (void)key, (void)v, (void)bytes, (void)e;
  return DS_OK;
}

static ds_status kv_get(void *ctx, const char *key, void *v, size_t *bytes, int64_t ms,
                        ds_error *e) {
  (void)ctx, (void)key, (void)v, (void)ms, (void)e;
  *bytes = 0;
  return DS_OK;
}

static int try_kv(subject *s, size_t size) {
  ds_kv_store kv = {.base = {0, DS_ABI_MAJOR, DS_ABI_MINOR}, .set = kv_set, .get = kv_get};
  ds_comm *c = NULL;
  const int32_t rank = 0;
  int32_t own = -1, ranks = -1;
  ds_status status =
      s->plugin->comm->create(s->device, &rank, 1, flush(&kv, sizeof kv, size), 0, &c, &err);
  if (status == DS_OK && s->plugin->comm->rank) /* absent where it is not written yet */
    status = s->plugin->comm->rank(c, &own, &ranks, &err);
  else
    own = 0, ranks = 1;
  if (status == DS_OK) s->plugin->comm->destroy(c);
  return judge(status, own == 0 && ranks == 1);
}

static void host_log(void *ctx, ds_log_level level, const char *message) {
  (void)ctx, (void)level, (void)message;
}

static void *host_alloc(void *ctx, size_t bytes) {
  (void)ctx;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void host_free(void *ctx, void *p) {
  (void)ctx;
  free(p);
}

static const ds_host host = {.base = {sizeof host, DS_ABI_MAJOR, DS_ABI_MINOR},
                             .log = host_log,
                             .alloc = host_alloc,
                             .free = host_free};
static const ds_version_range speaks = {DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, 0};

/* Twice in one process is against the rules, but this process is only to see what is read. */
static int try_host(subject *s, size_t size) {
  if (!s->query) return WORKS;
  return judge(s->query(flush(&host, sizeof host, size), speaks, &err) ? DS_OK : err.status, 1);
}

/* A host that speaks lo to hi of a major: the plugin answers the highest minor that both know, or
 * says why not. */
static int try_negotiation(subject *s) {
  static const struct {
    int major, lo, hi, agreed; /* -1: refused */
  } hosts[] = {
      {DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, DS_ABI_MINOR},
      {DS_ABI_MAJOR, DS_ABI_MINOR, DS_ABI_MINOR + 7, DS_ABI_MINOR},
      {DS_ABI_MAJOR, 0, 65535, DS_ABI_MINOR},
      {DS_ABI_MAJOR, 0, DS_ABI_COMPAT_MINOR, DS_ABI_COMPAT_MINOR},
      {DS_ABI_MAJOR, DS_ABI_MINOR + 1, DS_ABI_MINOR + 1, -1},
      {DS_ABI_MAJOR, DS_ABI_MINOR + 1, 65535, -1},
      {DS_ABI_MAJOR, 0, DS_ABI_COMPAT_MINOR - 1, -1},
      {DS_ABI_MAJOR + 1, 0, 65535, -1},
      {DS_ABI_MAJOR + 1, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, -1},
      {65535, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, -1},
  };
  int failures = 0;
  for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
    ds_version_range range = {(uint16_t)hosts[i].major, (uint16_t)hosts[i].lo,
                              (uint16_t)hosts[i].hi, 0};
    err.message[0] = '\0';
    err.status = DS_OK;
    const ds_plugin *p = s->query(&host, range, &err);
    int good = hosts[i].agreed < 0 ? !p && err.status == DS_ERR_VERSION && err.message[0]
                                   : p && p->base.minor == hosts[i].agreed;
    if (good) continue;
    failures++;
    printf("a host of %d.%d to %d.%d: expected %d, answered %d: %s\n", hosts[i].major, hosts[i].lo,
           hosts[i].major, hosts[i].hi, hosts[i].agreed, p ? p->base.minor : -1, err.message);
  }
  return failures != 0;
}

/* ---------------------------------------------------------------- all of them */

/* What a struct had when it was published first; a gemm without scales needs no more. */
#define STRUCT(function, type, needs)                                                              \
  { function, #type, PUBLISHED(type), needs }

static const struct {
  int (*function)(subject *s, size_t size);
  const char *name;
  size_t published;
  size_t needs; /* the ds_plugin member that it belongs to; 0 for none */
} structs[] = {STRUCT(try_host, ds_host, 0),
               STRUCT(try_info, ds_device_info, 0),
               {try_gemm, "ds_gemm", offsetof(ds_gemm, scale_a), offsetof(ds_plugin, gemm)},
               STRUCT(try_op, ds_op, offsetof(ds_plugin, ops)),
               STRUCT(try_quant, ds_quant, offsetof(ds_plugin, quant)),
               STRUCT(try_quant_gemm, ds_quant_gemm, offsetof(ds_plugin, quant)),
               STRUCT(try_world, ds_comm_world, offsetof(ds_plugin, comm)),
               STRUCT(try_kv, ds_kv_store, offsetof(ds_plugin, comm))};

/* ---------------------------------------------------------------- running them */

static int try_size(subject *s, size_t i, size_t size) {
  snprintf(progress->what, sizeof progress->what, "%s", structs[i].name);
  progress->size = size;
  err.message[0] = '\0';
  int got = structs[i].function(s, size);
  if (got == WORKS || (got == REFUSED && size < structs[i].published)) return 0;
  printf("%s of %zu bytes (%zu were published): %s: %s\n", structs[i].name, size,
         structs[i].published, got == REFUSED ? "refused" : "wrong", err.message);
  return 1;
}

/* Every size from the size field on; all that the published struct and longer ones can have. */
static int try_struct(subject *s, size_t i) {
  const void *member = s->plugin;
  if (structs[i].needs) memcpy(&member, (const char *)s->plugin + structs[i].needs, sizeof member);
  if (!member) return 0;
  size_t first = structs[i].function == try_host || structs[i].function == try_kv
                     ? sizeof(ds_table)
                     : sizeof(uint32_t);
  int failures = 0;
  for (size_t size = first; size < structs[i].published + MORE; size += 4)
    failures += try_size(s, i, size);
  return failures;
}

static int child(subject *s, size_t i) {
  if (s->query) s->plugin = s->query(&host, speaks, &err);
  void *memory = NULL;
  if (!s->plugin || s->plugin->device->open(0, NULL, &s->device, &err) != DS_OK ||
      s->plugin->device->stream_create(s->device, &s->stream, &err) != DS_OK ||
      s->plugin->device->alloc(s->device, MEMORY * sizeof(float), &memory, &err) != DS_OK) {
    printf("can't be opened: %s\n", err.message);
    return 1;
  }
  s->memory = memory;
  int failures = try_struct(s, i);
  s->plugin->device->free(s->device, memory);
  s->plugin->device->stream_destroy(s->stream);
  s->plugin->device->close(s->device);
  return failures != 0;
}

/* Runs child, or try_negotiation for i < 0, in a process of its own. */
static int in_child(subject *s, int i) {
  int status = 1;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    int failed = i < 0 ? try_negotiation(s) : child(s, (size_t)i);
    fflush(stdout);
    _exit(failed);
  }
  if (pid < 0 || waitpid(pid, &status, 0) != pid) return 1;
  if (WIFSIGNALED(status) || WEXITSTATUS(status) > 1)
    printf("%s of %zu bytes: ended by signal %d\n", progress->what, progress->size,
           WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  return status != 0;
}

int main(int argc, char **argv) {
  subject s = {0};
  int failures = 0;
  if (argc != 2) return 2;
  if (strcmp(argv[1], "reference") == 0) {
    s.plugin = ds_reference_plugin();
  } else {
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    void *symbol = library ? dlsym(library, "ds_plugin_query") : NULL;
    if (!symbol) {
      printf("%s\n", dlerror());
      return 1;
    }
    memcpy(&s.query, &symbol, sizeof symbol);
  }
  progress =
      mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (progress == MAP_FAILED) return 1;
  for (size_t i = 0; i < sizeof structs / sizeof *structs; i++) failures += in_child(&s, (int)i);
#ifndef NEXT /* there the plugin's own versions are not the header's */
  if (s.query) failures += in_child(&s, -1);
#endif
  return failures != 0;
}
