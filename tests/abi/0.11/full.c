/* full.c - a reference plugin for the ABI's matrix: every table but graph, in plain f32 loops.
 *
 * Self-contained, since it is frozen with each version: it includes nothing but the header of its
 * time. What it does not compute (other types, most ops) is DS_ERR_UNSUPPORTED, and core falls
 * back. It reads of each struct what DS_HAS says is there.
 */
#ifndef _GNU_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "ds_abi.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

DS_PLUGIN_NOTE("full", "1.0.0", 160, "nothing");

struct ds_device {
  int opened;
};
struct ds_stream {
  ds_device *device;
};
struct ds_comm {
  int aborted;
};

static ds_status fail(ds_error *err, ds_status status, const char *message) {
  if (err) {
    err->status = status;
    snprintf(err->message, sizeof err->message, "full: %s", message);
  }
  return status;
}

/* ---------------------------------------------------------------- device: host memory, no waiting
 */

static ds_status device_count(int32_t *count_out, const char **reason_out, ds_error *err) {
  (void)reason_out;
  (void)err;
  *count_out = 1;
  return DS_OK;
}

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  if (index != 0) return fail(err, DS_ERR_NOT_FOUND, "there is only device 0");
  if (options && strcmp(options, "{}") != 0) return fail(err, DS_ERR_INVALID, "unknown option");
  *out = calloc(1, sizeof **out);
  return *out ? DS_OK : fail(err, DS_ERR_MEMORY, "out of memory");
}

static void device_close(ds_device *dev) {
  free(dev);
}

static ds_status device_info(ds_device *dev, ds_device_info *info, ds_error *err) {
  ds_device_info full = {.flags = DS_DEVICE_HOST_ACCESSIBLE | DS_DEVICE_SYNCHRONOUS,
                         .name = "host memory, plain loops",
                         .threads = 1};
  (void)dev;
  if (info->size < sizeof info->size) return fail(err, DS_ERR_INVALID, "info: size is not set");
  full.size = info->size < sizeof full ? info->size : (uint32_t)sizeof full;
  memcpy(info, &full, full.size);
  return DS_OK;
}

static ds_status device_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err) {
  (void)dev;
  if (bytes > SIZE_MAX / 4 || posix_memalign(out, 64, bytes) != 0)
    return fail(err, DS_ERR_MEMORY, "the host's memory is exhausted");
  return DS_OK;
}

static void device_free(ds_device *dev, void *p) {
  (void)dev;
  free(p);
}

static ds_status stream_create(ds_device *dev, ds_stream **out, ds_error *err) {
  *out = malloc(sizeof **out);
  if (!*out) return fail(err, DS_ERR_MEMORY, "out of memory");
  (*out)->device = dev;
  return DS_OK;
}

static void stream_destroy(ds_stream *s) {
  free(s);
}

static ds_status stream_sync(ds_stream *s, ds_error *err) {
  (void)s;
  (void)err;
  return DS_OK;
}

static ds_status copy(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  (void)s;
  (void)err;
  if (bytes) memcpy(dst, src, bytes);
  return DS_OK;
}

static ds_status stream_alloc(ds_stream *s, size_t bytes, void **out, ds_error *err) {
  return device_alloc(s->device, bytes, out, err);
}

static ds_status stream_free(ds_stream *s, void *p, ds_error *err) {
  (void)err;
  device_free(s->device, p);
  return DS_OK;
}

static ds_status peer_copy(ds_stream *s, ds_device *to, void *dst, ds_device *from, const void *src,
                           size_t bytes, ds_error *err) {
  (void)to;
  (void)from;
  return copy(s, dst, src, bytes, err);
}

static ds_status fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_error *err) {
  (void)s;
  (void)err;
  if (bytes) memset(dst, byte, bytes);
  return DS_OK;
}

static const ds_device_table device = {
    .base = {sizeof(ds_device_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .alloc = device_alloc,
    .free = device_free,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_sync = stream_sync,
    .upload = copy,
    .download = copy,
    .copy = copy,
    .fill = fill,
    .host_alloc = device_alloc,
    .host_free = device_free,
    .upload_async = copy,
    .download_async = copy,
    .stream_alloc = stream_alloc,
    .stream_free = stream_free,
    .peer_copy = peer_copy,
};

/* ---------------------------------------------------------------- gemm */

static int gemm_supports(ds_device *dev, const ds_gemm *g) {
  const uint32_t known = DS_GEMM_TRANS_A | DS_GEMM_TRANS_B | DS_GEMM_SCALES;
  (void)dev;
  return DS_HAS(g, c) && !(g->flags & ~known) &&
         (!(g->flags & DS_GEMM_SCALES) || DS_HAS(g, scale_b)) && g->dtype_a == DS_F32 &&
         g->dtype_b == DS_F32 && g->dtype_c == DS_F32 && g->dtype_bias == DS_F32 &&
         (g->epilogue == DS_EPILOGUE_NONE || g->epilogue == DS_EPILOGUE_GELU_TANH);
}

static double dot(const ds_gemm *g, const float *a, const float *b, int64_t i, int64_t j) {
  double sum = 0;
  for (int64_t p = 0; p < g->k; p++)
    sum += (double)a[g->flags & DS_GEMM_TRANS_A ? p * g->lda + i : i * g->lda + p] *
           b[g->flags & DS_GEMM_TRANS_B ? j * g->ldb + p : p * g->ldb + j];
  return sum;
}

/* What the sums are multiplied by. */
static double factor(const ds_gemm *g) {
  double v = g->alpha;
  if (!(g->flags & DS_GEMM_SCALES)) return v;
  if (g->scale_a) v *= *g->scale_a;
  if (g->scale_b) v *= *g->scale_b;
  return v;
}

static double gelu_tanh(double x) {
  return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static ds_status gemm_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  if (!gemm_supports(s->device, g))
    return fail(err, DS_ERR_UNSUPPORTED, "gemm: only f32, plain or gelu");
  for (int64_t n = 0; n < g->batch; n++) {
    const float *a = (const float *)g->a + n * g->stride_a;
    const float *b = (const float *)g->b + n * g->stride_b;
    float *c = (float *)g->c + n * g->stride_c;
    for (int64_t i = 0; i < g->m; i++)
      for (int64_t j = 0; j < g->n; j++) {
        double v = factor(g) * dot(g, a, b, i, j);
        if (g->bias) v += ((const float *)g->bias)[j];
        if (g->epilogue == DS_EPILOGUE_GELU_TANH) v = gelu_tanh(v);
        if (g->beta != 0) v += c[i * g->ldc + j];
        c[i * g->ldc + j] = (float)v;
      }
  }
  return DS_OK;
}

static const ds_gemm_table gemm = {
    .base = {sizeof(ds_gemm_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = gemm_supports,
    .run = gemm_run,
};

/* ---------------------------------------------------------------- quant: symmetric i8 of f32 */

static int quant_supports(ds_device *dev, const ds_quant *q, const ds_quant_gemm *g) {
  (void)dev;
  return DS_HAS(q, zeros) && q->flags == 0 && q->qtype == DS_I8 && q->dtype == DS_F32 &&
         q->group > 0 && q->cols % q->group == 0 && (!g || (DS_HAS(g, c) && g->flags == 0));
}

static ds_status quant_refuse(ds_error *err) {
  return fail(err, DS_ERR_UNSUPPORTED, "quant: only symmetric i8 of f32");
}

static ds_status quantize(ds_stream *s, const ds_quant *q, const void *x, ds_error *err) {
  if (!quant_supports(s->device, q, NULL)) return quant_refuse(err);
  const float *from = x;
  for (int64_t at = 0; at < q->rows * q->cols; at += q->group) {
    float most = 0;
    for (int64_t i = 0; i < q->group; i++) most = fmaxf(most, fabsf(from[at + i]));
    float scale = most == 0 ? 1 : most / 127;
    q->scales[at / q->group] = scale;
    for (int64_t i = 0; i < q->group; i++)
      ((int8_t *)q->values)[at + i] = (int8_t)fmaxf(-127, fminf(127, rintf(from[at + i] / scale)));
  }
  return DS_OK;
}

static float dequantized(const ds_quant *q, int64_t at) {
  return (float)((const int8_t *)q->values)[at] * q->scales[at / q->group];
}

static ds_status dequantize(ds_stream *s, const ds_quant *q, void *x, ds_error *err) {
  if (!quant_supports(s->device, q, NULL)) return quant_refuse(err);
  for (int64_t i = 0; i < q->rows * q->cols; i++) ((float *)x)[i] = dequantized(q, i);
  return DS_OK;
}

static ds_status quant_product(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g,
                               ds_error *err) {
  if (!quant_supports(s->device, q, g)) return quant_refuse(err);
  for (int64_t i = 0; i < g->m; i++)
    for (int64_t j = 0; j < q->rows; j++) {
      double sum = g->bias ? ((const float *)g->bias)[j] : 0;
      for (int64_t p = 0; p < q->cols; p++)
        sum += (double)((const float *)g->a)[i * g->lda + p] * dequantized(q, j * q->cols + p);
      ((float *)g->c)[i * g->ldc + j] = (float)sum;
    }
  return DS_OK;
}

static const ds_quant_table quant = {
    .base = {sizeof(ds_quant_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = quant_supports,
    .quantize = quantize,
    .dequantize = dequantize,
    .gemm = quant_product,
};

/* ---------------------------------------------------------------- comm: a world of one rank */

static ds_status comm_world(ds_comm_world *out, ds_error *err) {
  ds_comm_world full = {.world_size = 1, .local_size = 1};
  if (out->size < sizeof out->size) return fail(err, DS_ERR_INVALID, "world: size is not set");
  full.size = out->size < sizeof full ? out->size : (uint32_t)sizeof full;
  memcpy(out, &full, full.size);
  return DS_OK;
}

static ds_status comm_create(ds_device *dev, const int32_t *ranks, int32_t rank_count,
                             const ds_kv_store *kv, int64_t timeout_ms, ds_comm **out,
                             ds_error *err) {
  (void)dev;
  (void)kv;
  (void)timeout_ms;
  if (rank_count != 1 || ranks[0] != 0) return fail(err, DS_ERR_UNSUPPORTED, "only rank 0 of 1");
  *out = calloc(1, sizeof **out);
  return *out ? DS_OK : fail(err, DS_ERR_MEMORY, "out of memory");
}

static void comm_destroy(ds_comm *c) {
  free(c);
}

static ds_status move(const ds_comm *c, const void *send, void *recv, int64_t count, int32_t dtype,
                      ds_error *err) {
  static const size_t bytes[] = {
      [DS_F32] = 4, [DS_BF16] = 2, [DS_F16] = 2, [DS_F64] = 8,    [DS_I32] = 4,   [DS_I64] = 8,
      [DS_I8] = 1,  [DS_U8] = 1,   [DS_I4] = 0,  [DS_F8E4M3] = 1, [DS_F8E5M2] = 1};
  if (c->aborted) return fail(err, DS_ERR_ABORTED, "the communicator was aborted");
  if (dtype < 0 || dtype >= (int32_t)(sizeof bytes / sizeof *bytes) || !bytes[dtype])
    return fail(err, DS_ERR_UNSUPPORTED, "collective: unknown dtype");
  if (count && send != recv) memmove(recv, send, (size_t)count * bytes[dtype]);
  return DS_OK;
}

static ds_status reduce(ds_comm *c, ds_stream *s, const void *send, void *recv, int64_t count,
                        int32_t dtype, ds_reduce op, ds_error *err) {
  (void)s;
  (void)op; /* of one value each is that value */
  return move(c, send, recv, count, dtype, err);
}

static ds_status spread(ds_comm *c, ds_stream *s, const void *send, void *recv, int64_t count,
                        int32_t dtype, ds_error *err) {
  (void)s;
  return move(c, send, recv, count, dtype, err);
}

static ds_status broadcast(ds_comm *c, ds_stream *s, void *buffer, int64_t count, int32_t dtype,
                           int32_t root, ds_error *err) {
  (void)s;
  if (root != 0) return fail(err, DS_ERR_INVALID, "broadcast: there is only rank 0");
  return move(c, buffer, buffer, count, dtype, err);
}

static ds_status barrier(ds_comm *c, ds_stream *s, ds_error *err) {
  (void)s;
  return c->aborted ? fail(err, DS_ERR_ABORTED, "the communicator was aborted") : DS_OK;
}

static ds_status comm_send(ds_comm *c, ds_stream *s, const void *buffer, int64_t count,
                           int32_t dtype, int32_t peer, ds_error *err) {
  (void)c, (void)s, (void)buffer, (void)count, (void)dtype, (void)peer;
  return fail(err, DS_ERR_INVALID, "send: there is no other rank");
}

static ds_status comm_recv(ds_comm *c, ds_stream *s, void *buffer, int64_t count, int32_t dtype,
                           int32_t peer, ds_error *err) {
  (void)c, (void)s, (void)buffer, (void)count, (void)dtype, (void)peer;
  return fail(err, DS_ERR_INVALID, "recv: there is no other rank");
}

static ds_status split(ds_comm *c, int32_t color, int32_t key, ds_comm **out, ds_error *err) {
  (void)key;
  *out = NULL;
  if (c->aborted) return fail(err, DS_ERR_ABORTED, "the communicator was aborted");
  if (color < -1) return fail(err, DS_ERR_INVALID, "split: the color is at least -1");
  if (color == -1) return DS_OK;
  *out = calloc(1, sizeof **out);
  return *out ? DS_OK : fail(err, DS_ERR_MEMORY, "out of memory");
}

static ds_status comm_rank(ds_comm *c, int32_t *rank, int32_t *size, ds_error *err) {
  (void)c;
  (void)err;
  *rank = 0;
  *size = 1;
  return DS_OK;
}

static void comm_abort(ds_comm *c) {
  c->aborted = 1;
}

static const ds_comm_table comm = {
    .base = {sizeof(ds_comm_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .world = comm_world,
    .create = comm_create,
    .destroy = comm_destroy,
    .allreduce = reduce,
    .reduce_scatter = reduce,
    .allgather = spread,
    .broadcast = broadcast,
    .barrier = barrier,
    .send = comm_send,
    .recv = comm_recv,
    .alltoall = spread,
    .split = split,
    .rank = comm_rank,
    .abort = comm_abort,
};

/* ---------------------------------------------------------------- ops */

static int64_t elements(const ds_tensor *t) {
  int64_t n = 1;
  for (int32_t i = 0; i < t->rank; i++) n *= t->shape[i];
  return n;
}

/* f32, contiguous, and as many elements as `like`. */
static int plain(const ds_tensor *t, const ds_tensor *like) {
  int64_t step = 1;
  if (!t || t->dtype != DS_F32 || elements(t) != elements(like)) return 0;
  for (int32_t i = t->rank - 1; i >= 0; i--) {
    if (t->shape[i] > 1 && t->stride[i] != step) return 0;
    step *= t->shape[i];
  }
  return 1;
}

/* The ops it has take and give tensors of one size. */
static int ops_supports(ds_device *dev, const ds_op *op) {
  uint32_t n_in;
  (void)dev;
  if (!DS_HAS(op, attr)) return 0;
  switch (op->id) {
    case DS_OP_ADD:
    case DS_OP_MUL: n_in = 2; break;
    case DS_OP_SCALE:
    case DS_OP_SOFTMAX: n_in = 1; break;
    case DS_OP_FILL: n_in = 0; break;
    default: return 0;
  }
  if (op->n_in != n_in || op->n_out != 1 || !op->out[0]) return 0;
  if (op->accumulate && op->id != DS_OP_MUL && op->id != DS_OP_SCALE) return 0;
  if (op->id == DS_OP_SOFTMAX && op->out[0]->rank < 1) return 0;
  for (uint32_t i = 0; i < n_in; i++)
    if (!plain(op->in[i], op->out[0])) return 0;
  return plain(op->out[0], op->out[0]);
}

static void softmax(const float *x, float *y, int64_t n) {
  double most = -INFINITY, sum = 0;
  for (int64_t i = 0; i < n; i++) most = fmax(most, x[i]);
  for (int64_t i = 0; i < n; i++) sum += exp(x[i] - most);
  for (int64_t i = 0; i < n; i++) y[i] = (float)(exp(x[i] - most) / sum);
}

static ds_status ops_run(ds_stream *s, const ds_op *op, ds_error *err) {
  if (!ops_supports(s->device, op)) return fail(err, DS_ERR_UNSUPPORTED, "op: not in plain f32");
  const float *a = op->n_in > 0 ? op->in[0]->data : NULL, *b = op->n_in > 1 ? op->in[1]->data : a;
  float *y = op->out[0]->data;
  float attr = op->n_attr > 0 ? (float)op->attr[0].f : op->id == DS_OP_SCALE ? 1 : 0;
  int64_t n = elements(op->out[0]);
  if (op->id == DS_OP_SOFTMAX) {
    int64_t cols = op->out[0]->shape[op->out[0]->rank - 1];
    for (int64_t at = 0; at < n; at += cols) softmax(a + at, y + at, cols);
    return DS_OK;
  }
  for (int64_t i = 0; i < n; i++) {
    float v = op->id == DS_OP_ADD     ? a[i] + b[i]
              : op->id == DS_OP_MUL   ? a[i] * b[i]
              : op->id == DS_OP_SCALE ? attr * a[i]
                                      : attr;
    y[i] = op->accumulate & 1 ? y[i] + v : v;
  }
  return DS_OK;
}

static const ds_ops_table ops = {
    .base = {sizeof(ds_ops_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = ops_supports,
    .run = ops_run,
};

/* ---------------------------------------------------------------- the plugin */

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static ds_plugin plugin = {
      .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = "full",
      .version = "1.0.0",
      .description = "every table but graph, in plain loops",
      .device = &device,
      .gemm = &gemm,
      .quant = &quant,
      .comm = &comm,
      .ops = &ops,
  };
  char text[80];
  if (host_abi.major != DS_ABI_MAJOR || host_abi.min_minor > DS_ABI_MINOR ||
      host_abi.max_minor < DS_ABI_COMPAT_MINOR) {
    fail(err, DS_ERR_VERSION, "no common ABI");
    return NULL;
  }
  if (host_abi.max_minor < DS_ABI_MINOR) plugin.base.minor = host_abi.max_minor;
  snprintf(text, sizeof text, "agreed to ABI %d.%d", plugin.base.major, plugin.base.minor);
  if (DS_HAS(host, log) && host->log) host->log(host->ctx, DS_LOG_INFO, text);
  return &plugin;
}
