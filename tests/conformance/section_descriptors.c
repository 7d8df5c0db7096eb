/* section_descriptors.c - sizes of descriptors, and failures that explain themselves.
 *
 * Descriptors end where an unreadable page begins, so that a look behind them is a crash. A larger
 * size (of a core to come) is taken; a smaller one, that lacks fields, is refused.
 */
#include "page.h"
#include "work.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { MORE = 64 }; /* bytes of a future that mean nothing yet */

/* A copy with `size` (its first field) grown by MORE bytes of 0xff. */
static void *grown(const void *from, size_t bytes) {
  unsigned char text[1024];
  uint32_t size = (uint32_t)(bytes + MORE);
  memset(text, 0xff, sizeof text);
  memcpy(text, from, bytes);
  memcpy(text, &size, sizeof size);
  return page_end(text, bytes + MORE);
}

/* A copy of its first bytes only. */
static void *shrunk(const void *from, size_t bytes) {
  unsigned char text[1024];
  uint32_t size = (uint32_t)bytes;
  memcpy(text, from, bytes);
  memcpy(text, &size, sizeof size);
  return page_end(text, bytes);
}

/* A kind of descriptor: how a plugin is asked about one and given one. */
typedef struct kind {
  size_t bytes;
  size_t too_few; /* ends before a field that no plugin can do without */
  int (*supports)(conformance *k, const void *d);
  ds_status (*run)(conformance *k, const void *d, ds_error *err);
} kind;

static void sizes(conformance *k, const kind *a, const void *full, tally *t) {
  ds_error err = check_error_new();
  const void *exact = page_end(full, a->bytes);
  check_doing(k, "a descriptor of %zu bytes before an unreadable page", a->bytes);
  if (!a->supports(k, exact)) {
    check_unsupported(t, "supports() says no to the call that this check would make");
    return;
  }
  ds_status st = a->run(k, exact, &err);
  NEED(st == DS_OK, "run of a supported descriptor: %.300s", err.message);
  check_doing(k, "a descriptor whose size is %d larger than today's", MORE);
  const void *larger = grown(full, a->bytes);
  NEED(a->supports(k, larger), "a larger size is not supported; compare sizes with >=");
  st = a->run(k, larger, &err);
  NEED(st == DS_OK, "a larger size is refused: %.300s", err.message);
  check_doing(k, "a descriptor of %zu bytes, too few", a->too_few);
  const void *smaller = shrunk(full, a->too_few);
  NEED(!a->supports(k, smaller),
       "supports() takes a descriptor of %zu bytes, too few; ask DS_HAS for the last field you use",
       a->too_few);
  err = check_error_new();
  st = a->run(k, smaller, &err);
  NEED(check_explained(st, &err), "a size that is too small gave %d \"%.200s\"", (int)st,
       check_text(st, &err));
  if (k->plugin->device->stream_sync(k->stream, &err) != DS_OK)
    check_fail(t, "stream_sync after a refused call: %.300s", err.message);
}

static int op_supports(conformance *k, const void *d) {
  return k->plugin->ops->supports(k->dev, d);
}
static ds_status op_run(conformance *k, const void *d, ds_error *err) {
  return k->plugin->ops->run(k->stream, d, err);
}
static int gemm_supports(conformance *k, const void *d) {
  return k->plugin->gemm->supports(k->dev, d);
}
static ds_status gemm_run(conformance *k, const void *d, ds_error *err) {
  return k->plugin->gemm->run(k->stream, d, err);
}

/* scale, or else add. Arrays, tensors and attributes of an op end at such a page too. */
static void op_size(conformance *k, tally *t) {
  static const kind a = {sizeof(ds_op), offsetof(ds_op, out), op_supports, op_run};
  work w;
  ds_error err;
  if (!k->plugin->ops) {
    check_unsupported(t, "the plugin has no ops table");
    return;
  }
  NEED(work_init(k, &w, k->dev, &err) == DS_OK, "alloc: %s", err.message);
  ds_tensor x = {.data = w.a, .rank = 1, .shape = {64}, .stride = {1}}, y = x;
  y.data = w.c;
  const ds_attr factor = {.f = 2};
  const ds_tensor *in[] = {page_end(&x, sizeof x), page_end(&x, sizeof x)},
                  *out[] = {page_end(&y, sizeof y)};
  ds_op op = {.size = sizeof op,
              .id = DS_OP_SCALE,
              .n_in = 1,
              .n_out = 1,
              .n_attr = 1,
              .in = page_end(in, sizeof in[0]),
              .out = page_end(out, sizeof out),
              .attr = page_end(&factor, sizeof factor)};
  if (!k->plugin->ops->supports(k->dev, &op)) {
    op.id = DS_OP_ADD;
    op.n_in = 2;
    op.n_attr = 0;
    op.in = page_end(in, sizeof in);
    op.attr = NULL;
  }
  static const float host[WORK_N * WORK_N];
  ds_op asked = op;
  asked.workspace = w.b;
  asked.workspace_size = WORK_BYTES;
  if (k->plugin->ops->workspace && k->plugin->ops->workspace(k->dev, &op) > WORK_BYTES)
    check_unsupported(t, "the op wants too much scratch for this check");
  else if (k->plugin->device->upload(k->stream, w.a, host, WORK_BYTES, &err) != DS_OK)
    check_fail(t, "upload: %s", err.message);
  else
    sizes(k, &a, &asked, t);
  work_finish(k, &w);
}

static void gemm_size(conformance *k, tally *t) {
  static const kind a = {sizeof(ds_gemm), offsetof(ds_gemm, c), gemm_supports, gemm_run};
  work w;
  ds_error err;
  if (!k->plugin->gemm) {
    check_unsupported(t, "the plugin has no gemm table");
    return;
  }
  NEED(work_init(k, &w, k->dev, &err) == DS_OK, "alloc: %s", err.message);
  const ds_gemm g = {.size = sizeof g,
                     .m = 8,
                     .n = 8,
                     .k = 8,
                     .lda = 8,
                     .ldb = 8,
                     .ldc = 8,
                     .batch = 1,
                     .alpha = 1,
                     .a = w.a,
                     .b = w.b,
                     .c = w.c};
  sizes(k, &a, &g, t);
  work_finish(k, &w);
}

static int quant_supports(conformance *k, const void *d) {
  return k->plugin->quant->supports(k->dev, d, NULL);
}
static ds_status quant_run(conformance *k, const void *d, ds_error *err) {
  const work *w = k->of_section;
  return k->plugin->quant->quantize(k->stream, d, w->a, err);
}
static int quant_gemm_supports(conformance *k, const void *d) {
  const work *w = k->of_section;
  const ds_quant q = {.size = sizeof q, .qtype = DS_I8, .rows = 8, .cols = 16, .group = 16};
  (void)w;
  return k->plugin->quant->supports(k->dev, &q, d);
}
static ds_status quant_gemm_run(conformance *k, const void *d, ds_error *err) {
  const work *w = k->of_section;
  const ds_quant q = {.size = sizeof q,
                      .qtype = DS_I8,
                      .rows = 8,
                      .cols = 16,
                      .group = 16,
                      .values = w->b,
                      .scales = (float *)w->b + 512};
  return k->plugin->quant->gemm(k->stream, &q, d, err);
}

static void quant_sizes(conformance *k, bool product, tally *t) {
  static const kind one = {sizeof(ds_quant), offsetof(ds_quant, scales), quant_supports, quant_run};
  static const kind two = {sizeof(ds_quant_gemm), offsetof(ds_quant_gemm, c), quant_gemm_supports,
                           quant_gemm_run};
  work w;
  ds_error err;
  static const float zeros[WORK_N * WORK_N];
  if (!k->plugin->quant) {
    check_unsupported(t, "the plugin has no quant table");
    return;
  }
  NEED(work_init(k, &w, k->dev, &err) == DS_OK, "alloc: %s", err.message);
  const ds_quant q = {.size = sizeof q,
                      .qtype = DS_I8,
                      .rows = 8,
                      .cols = 16,
                      .group = 16,
                      .values = w.b,
                      .scales = (float *)w.b + 512};
  const ds_quant_gemm g = {.size = sizeof g, .m = 4, .lda = 16, .ldc = 8, .a = w.a, .c = w.c};
  k->of_section = &w;
  if (k->plugin->device->upload(k->stream, w.a, zeros, WORK_BYTES, &err) != DS_OK ||
      k->plugin->device->upload(k->stream, w.b, zeros, WORK_BYTES, &err) != DS_OK)
    check_fail(t, "upload: %s", err.message);
  else
    sizes(k, product ? &two : &one, product ? (const void *)&g : &q, t);
  work_finish(k, &w);
}

static void quant_size(conformance *k, tally *t) {
  quant_sizes(k, false, t);
}

static void quant_gemm_size(conformance *k, tally *t) {
  quant_sizes(k, true, t);
}

/* Out structs: the plugin writes no more than size says, and reads only that. */
static void info_size(conformance *k, tally *t) {
  const ds_device_info now = {.size = sizeof now};
  ds_error err = check_error_new();
  ds_device_info *exact = page_end(&now, sizeof now);
  NEED(k->plugin->device->info(k->dev, exact, &err) == DS_OK, "info: %.300s", err.message);
  ds_device_info *larger = grown(&now, sizeof now);
  NEED(k->plugin->device->info(k->dev, larger, &err) == DS_OK, "info with a larger size: %.300s",
       err.message);
  NEED(larger->size >= offsetof(ds_device_info, memory_total) && larger->size <= sizeof now,
       "info filled %u bytes by its own word, of %zu that it can know", larger->size, sizeof now);
}

static void world_size(conformance *k, tally *t) {
  const ds_comm_world now = {.size = sizeof now};
  ds_error err = check_error_new();
  if (!k->plugin->comm) {
    check_unsupported(t, "the plugin has no comm table");
    return;
  }
  ds_comm_world *exact = page_end(&now, sizeof now);
  NEED(k->plugin->comm->world(exact, &err) == DS_OK, "world: %.300s", err.message);
  ds_comm_world *larger = grown(&now, sizeof now);
  NEED(k->plugin->comm->world(larger, &err) == DS_OK, "world with a larger size: %.300s",
       err.message);
  NEED(larger->size <= sizeof now, "world says that it filled %u bytes of %zu", larger->size,
       sizeof now);
}

/* ---------------------------------------------------------------- errors */

typedef ds_status wrong_call(conformance *k, ds_error *err);

static ds_status no_bytes(conformance *k, ds_error *err) {
  void *p = NULL;
  return k->plugin->device->alloc(k->dev, 0, &p, err);
}
static ds_status all_bytes(conformance *k, ds_error *err) {
  void *p = NULL;
  return k->plugin->device->alloc(k->dev, SIZE_MAX, &p, err);
}
static ds_status no_device(conformance *k, ds_error *err) {
  ds_device *dev = NULL;
  return k->plugin->device->open(1 << 30, NULL, &dev, err);
}
static ds_status no_info(conformance *k, ds_error *err) {
  ds_device_info info = {.size = 0};
  return k->plugin->device->info(k->dev, &info, err);
}
static ds_status no_op(conformance *k, ds_error *err) {
  const ds_op op = {.size = sizeof op, .id = 9999};
  return k->plugin->ops ? k->plugin->ops->run(k->stream, &op, err) : DS_OK;
}
static ds_status no_tensors(conformance *k, ds_error *err) {
  const ds_op op = {.size = sizeof op, .id = DS_OP_ADD};
  return k->plugin->ops ? k->plugin->ops->run(k->stream, &op, err) : DS_OK;
}
static ds_status no_gemm(conformance *k, ds_error *err) {
  const ds_gemm g = {.size = sizeof g, .m = -1, .n = 4, .k = 4, .batch = 1, .beta = 7};
  return k->plugin->gemm ? k->plugin->gemm->run(k->stream, &g, err) : DS_OK;
}
static ds_status no_quant(conformance *k, ds_error *err) {
  const ds_quant q = {.size = sizeof q, .qtype = DS_F64, .rows = 4, .cols = 4, .group = 3};
  return k->plugin->quant ? k->plugin->quant->quantize(k->stream, &q, NULL, err) : DS_OK;
}
static ds_status no_comm(conformance *k, ds_error *err) {
  ds_comm *c = NULL;
  if (!k->plugin->comm) return DS_OK;
  return k->plugin->comm->create(k->dev, NULL, 0, NULL, 1000, &c, err);
}

/* Failures say what failed, with a message that ends; and err may be NULL. */
static void errors(conformance *k, tally *t) {
  static const struct {
    const char *what;
    wrong_call *call;
    bool here; /* a table that everybody has */
  } all[] = {{"alloc of 0 bytes", no_bytes, true},
             {"alloc of all bytes there are", all_bytes, true},
             {"open of device 2^30", no_device, true},
             {"info with size 0", no_info, true},
             {"op 9999", no_op, false},
             {"add without tensors", no_tensors, false},
             {"gemm of m = -1, beta = 7", no_gemm, false},
             {"quantize to f64", no_quant, false},
             {"a communicator of no ranks", no_comm, false}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    ds_error err = check_error_new();
    check_doing(k, "%s", all[i].what);
    ds_status st = all[i].call(k, &err);
    bool skipped = st == DS_OK && !all[i].here &&
                   ((i == 4 || i == 5) ? !k->plugin->ops
                    : i == 6           ? !k->plugin->gemm
                    : i == 7           ? !k->plugin->quant
                                       : !k->plugin->comm);
    if (skipped) continue;
    NEED(st != DS_OK, "%s succeeds", all[i].what);
    NEED(memchr(err.message, 0, sizeof err.message), "%s: the message has no end", all[i].what);
    NEED(check_explained(st, &err), "%s gave status %d, and in err %d \"%.200s\"", all[i].what,
         (int)st, (int)err.status, check_text(st, &err));
    check_doing(k, "%s, with err NULL", all[i].what);
    NEED(all[i].call(k, NULL) == st, "%s gives another status when err is NULL", all[i].what);
  }
  ds_error err;
  NEED(k->plugin->device->stream_sync(k->stream, &err) == DS_OK,
       "calls that were refused killed the stream: %.300s", err.message);
}

UNIT_OF(info_size, "info-size")
UNIT_OF(op_size, "op-size")
UNIT_OF(gemm_size, "gemm-size")
UNIT_OF(quant_size, "quant-size")
UNIT_OF(quant_gemm_size, "quant-gemm-size")
UNIT_OF(world_size, "world-size")
UNIT_OF(errors, "errors")

const unit descriptor_units[] = {{"info-size", unit_info_size, NEEDS_DEVICE, false},
                                 {"op-size", unit_op_size, NEEDS_DEVICE, false},
                                 {"gemm-size", unit_gemm_size, NEEDS_DEVICE, false},
                                 {"quant-size", unit_quant_size, NEEDS_DEVICE, false},
                                 {"quant-gemm-size", unit_quant_gemm_size, NEEDS_DEVICE, false},
                                 {"world-size", unit_world_size, NEEDS_DEVICE, false},
                                 {"errors", unit_errors, NEEDS_DEVICE, false},
                                 {0}};
