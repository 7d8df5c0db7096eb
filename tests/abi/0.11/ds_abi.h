/* ds_abi.h - the dscore backend ABI, version 0.11: the candidate for 1.0
 *
 * The only header a backend plugin includes. Plain C11 data, also valid C++17.
 *
 * A plugin is a shared object that exports one symbol, ds_plugin_query(), and carries one ELF
 * note (DS_PLUGIN_NOTE) that describes it before any of its code runs. Everything else is a table
 * of functions that the query hands back.
 *
 * Rules that hold everywhere in this file:
 *
 *   Versions    Every table begins with a ds_table {size, major, minor}. Change is append-only: a
 *               field, once published, never moves. A reader looks at a field only if
 *               DS_HAS(table, field) - the table is large enough - and, for functions, if it is
 *               not NULL. Sizes are compared with >=, never with ==. A descriptor too small for a
 *               field that the call needs is DS_ERR_INVALID (supports says 0), and so is an out
 *               struct too small for its own size. abi/CHANGES.md has the rules.
 *   Errors      Every function that can fail returns a ds_status and takes a caller-owned
 *               ds_error *err, which may be NULL. On failure a plugin writes the message there; on
 *               success it leaves err alone. Outputs are unspecified after a failure.
 *               A plugin never exits, aborts or prints; it logs through ds_host.
 *               A flag, dtype, op id, enum value or attribute value that the callee doesn't know is
 *               DS_ERR_UNSUPPORTED, so that core can fall back: it may be newer than the callee.
 *               What nobody could do (a negative size, parts that contradict each other) is
 *               DS_ERR_INVALID.
 *   Addresses   Device memory is named by address (void *). Core does arithmetic on addresses
 *               within one allocation and never dereferences one unless the device says
 *               DS_DEVICE_HOST_ACCESSIBLE. A plugin whose device memory has handles hands out
 *               reserved address ranges.
 *   Threads     Each function is tagged:
 *                 [any-thread]  may be called from any thread at any time;
 *                 [per-device]  one call at a time for one ds_device;
 *                 [per-stream]  one call at a time for one ds_stream.
 *               The ds_error passed must not be shared between threads.
 *   Order       Work given to one stream runs in the order given. Work is asynchronous unless
 *               a function says that it waits: inputs must stay valid and unchanged until the work
 *               is done, which the caller learns from stream_sync or an event. Descriptor structs
 *               and the arrays they point to (ds_op, ds_gemm, ds_quant, ds_tensor, attributes) are
 *               read before the call returns; only device memory must outlive it.
 *   Failures    Work that fails after its call has returned is reported by the next call on that
 *               stream, stream_sync at the latest, with a message that names the work. From then on
 *               the stream is dead: every call on it fails with the same status, and what work
 *               after the failure did is unspecified. Once a call has reported the failure, nothing
 *               given to the stream touches memory any more, so that it may be freed (but for
 *               collectives: see abort).
 *               event_sync fails, with the same status, where the event was recorded behind the
 *               failure; a stream that waits for such an event dies of it too. Other streams go
 *               on. stream_destroy works, and core may create another stream; on a lost device
 *               stream_create fails too.
 */
#ifndef DS_ABI_H
#define DS_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DS_ABI_MAJOR 0
#define DS_ABI_MINOR 11
/* The oldest minor that this header only appends to: code compiled with it works with every minor
 * from here on, as long as it asks DS_HAS before it uses what came later. */
#define DS_ABI_COMPAT_MINOR 9

/* ---------------------------------------------------------------- status and errors */

typedef enum ds_status {
  DS_OK = 0,
  DS_ERR_INVALID = 1,     /* an argument or a config value is wrong */
  DS_ERR_UNSUPPORTED = 2, /* correct, but not offered here; core may fall back */
  DS_ERR_MEMORY = 3,      /* host or device memory is exhausted */
  DS_ERR_IO = 4,          /* the operating system refused a read or a write */
  DS_ERR_FORMAT = 5,      /* a file or message is corrupt or not of the expected kind */
  DS_ERR_NOT_FOUND = 6,   /* a file, name, plugin, symbol or device is not there */
  DS_ERR_VERSION = 7,     /* no common ABI or file version */
  DS_ERR_DEVICE = 8,      /* the device or its driver failed */
  DS_ERR_TIMEOUT = 9,     /* a time limit passed */
  DS_ERR_NUMERIC = 10,    /* a NaN or infinity where a number is needed */
  DS_ERR_STATE = 11,      /* the call is not allowed now (wrong order of calls) */
  DS_ERR_END = 12,        /* no more items; not a failure of the source */
  DS_ERR_INTERNAL = 13,   /* a bug in the callee */
  DS_ERR_ABORTED = 14     /* given up because somebody called abort */
} ds_status;

#define DS_ERROR_MESSAGE_MAX 1024

/* Owned by the caller; need not be initialized. The message is always NUL-terminated after a
 * failure and says what failed, where, and what to do about it. */
typedef struct ds_error {
  ds_status status;
  char message[DS_ERROR_MESSAGE_MAX];
} ds_error;

#if defined(__GNUC__)
#define DS_MUST_USE __attribute__((warn_unused_result))
#define DS_EXPORT   __attribute__((visibility("default")))
#else
#define DS_MUST_USE
#define DS_EXPORT
#endif

/* ---------------------------------------------------------------- versions and tables */

typedef struct ds_table {
  uint32_t size; /* sizeof the whole table, as the side that filled it was compiled */
  uint16_t major;
  uint16_t minor;
} ds_table;

/* Whether a table, struct or descriptor (whatever begins with its size) is large enough to hold a
 * field. */
#define DS_HAS(ptr, field)                                                                         \
  ((size_t)(*(const uint32_t *)(const void *)(ptr)) >=                                             \
   (size_t)((const char *)(&(ptr)->field + 1) - (const char *)(ptr)))

typedef struct ds_version_range {
  uint16_t major;     /* ABI major the side was compiled for */
  uint16_t min_minor; /* oldest minor it can work with */
  uint16_t max_minor; /* newest minor it knows */
  uint16_t reserved;
} ds_version_range;

/* ---------------------------------------------------------------- data types and tensors */

typedef enum ds_dtype {
  DS_F32 = 0,
  DS_BF16 = 1,
  DS_F16 = 2,
  DS_F64 = 3,
  DS_I32 = 4,
  DS_I64 = 5,
  DS_I8 = 6,
  DS_U8 = 7,
  DS_I4 = 8, /* two to a byte, low nibble first */
  DS_F8E4M3 = 9,
  DS_F8E5M2 = 10
} ds_dtype;

#define DS_MAX_RANK 6

/* Strides are in elements, not bytes. Dimension 0 is the outermost. An operation that does not say
 * "strided" for a tensor gets it contiguous (row-major). Base addresses are at least aligned to
 * the element; allocations to 64 bytes. */
typedef struct ds_tensor {
  void *data;
  int32_t dtype; /* ds_dtype */
  int32_t rank;
  int64_t shape[DS_MAX_RANK];
  int64_t stride[DS_MAX_RANK];
} ds_tensor;

/* ---------------------------------------------------------------- host services */

typedef enum ds_log_level {
  DS_LOG_DEBUG = 0,
  DS_LOG_INFO = 1,
  DS_LOG_WARN = 2,
  DS_LOG_ERROR = 3
} ds_log_level;

/* What core offers a plugin. Valid from the query until the process ends.
 * All functions [any-thread]. */
typedef struct ds_host {
  ds_table base;
  void *ctx; /* passed back as the first argument */
  void (*log)(void *ctx, ds_log_level level, const char *message);
  /* 64-byte aligned host memory; NULL when exhausted. free takes NULL. */
  void *(*alloc)(void *ctx, size_t bytes);
  void (*free)(void *ctx, void *p);
} ds_host;

/* Rendezvous for one communicator: a key-value store that all its ranks share.
 * Owned by core; valid until comm_create returns. */
typedef struct ds_kv_store {
  ds_table base;
  void *ctx;
  DS_MUST_USE ds_status (*set)(void *ctx, const char *key, const void *value, size_t bytes,
                               ds_error *err);
  /* Waits until the key is set or timeout_ms has passed. In: *bytes is the room in value; out: the
   * size of the stored value. */
  DS_MUST_USE ds_status (*get)(void *ctx, const char *key, void *value, size_t *bytes,
                               int64_t timeout_ms, ds_error *err);
} ds_kv_store;

/* ---------------------------------------------------------------- device table (required) */

typedef struct ds_device ds_device; /* an open device; the plugin's own struct */
typedef struct ds_stream ds_stream; /* an in-order queue of work on a device */
typedef struct ds_event ds_event;   /* a point in a stream */

enum {
  DS_DEVICE_HOST_ACCESSIBLE =
      1u << 0,                    /* the host may read and write device memory after stream_sync */
  DS_DEVICE_SYNCHRONOUS = 1u << 1 /* every call returns with its work done */
};

typedef struct ds_device_info {
  uint32_t size;         /* in: sizeof as the caller knows it; out: what the plugin filled */
  uint32_t flags;        /* DS_DEVICE_* */
  char name[128];        /* "AMD EPYC 9B45, 2 threads, avx512_bf16" */
  uint64_t memory_total; /* bytes; 0 = unknown */
  uint64_t memory_free;
  int32_t threads; /* worker threads or multiprocessors */
  int32_t reserved;
} ds_device_info;

typedef struct ds_device_table {
  ds_table base;
  /* [any-thread] How many devices can be opened now. Zero is no error: *reason_out then says
   * why, a static string ("no NVIDIA driver: libcuda.so.1 not found"). */
  DS_MUST_USE ds_status (*count)(int32_t *count_out, const char **reason_out, ds_error *err);
  /* [any-thread] options: a JSON object as text, the plugin's part of the config, or NULL. An
   * option that the plugin doesn't know is DS_ERR_INVALID, naming it. */
  DS_MUST_USE ds_status (*open)(int32_t index, const char *options, ds_device **out, ds_error *err);
  /* [per-device] Waits for all work, then releases everything. NULL is allowed. */
  void (*close)(ds_device *dev);
  /* [per-device] */
  DS_MUST_USE ds_status (*info)(ds_device *dev, ds_device_info *info, ds_error *err);
  /* [per-device] 64-byte aligned. Contents unspecified. bytes > 0. */
  DS_MUST_USE ds_status (*alloc)(ds_device *dev, size_t bytes, void **out, ds_error *err);
  /* [per-device] No work may still use it. NULL is allowed. */
  void (*free)(ds_device *dev, void *p);
  /* [per-device] */
  DS_MUST_USE ds_status (*stream_create)(ds_device *dev, ds_stream **out, ds_error *err);
  /* [per-stream] Waits for all work given to s, unless s is dead. NULL is allowed. */
  void (*stream_destroy)(ds_stream *s);
  /* [per-stream] Waits until all work given to s is done; reports the first failure of that work.
   */
  DS_MUST_USE ds_status (*stream_sync)(ds_stream *s, ds_error *err);
  /* [per-stream] host -> device. src may be reused when the call returns. This and the next three:
   * 0 bytes succeed and do nothing. */
  DS_MUST_USE ds_status (*upload)(ds_stream *s, void *dst, const void *src, size_t bytes,
                                  ds_error *err);
  /* [per-stream] device -> host. Waits for the stream. */
  DS_MUST_USE ds_status (*download)(ds_stream *s, void *dst, const void *src, size_t bytes,
                                    ds_error *err);
  /* [per-stream] device -> device, same device. Ranges must not overlap. Optional: core then goes
   * through the host. */
  DS_MUST_USE ds_status (*copy)(ds_stream *s, void *dst, const void *src, size_t bytes,
                                ds_error *err);
  /* [per-stream] Optional: core then uploads. */
  DS_MUST_USE ds_status (*fill)(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_error *err);

  /* Events. Optional as a group (all NULL): core then waits with stream_sync. Waiting for an event
   * that was never recorded succeeds at once; for one recorded on a dead stream, see Failures. */
  DS_MUST_USE ds_status (*event_create)(ds_device *dev, ds_event **out,
                                        ds_error *err); /* [per-device] */
  void (*event_destroy)(ds_event *e);                   /* [per-device] */
  DS_MUST_USE ds_status (*event_record)(ds_event *e, ds_stream *s,
                                        ds_error *err); /* [per-stream] */
  DS_MUST_USE ds_status (*event_wait)(ds_event *e, ds_stream *s,
                                      ds_error *err);              /* [per-stream] s waits for e */
  DS_MUST_USE ds_status (*event_sync)(ds_event *e, ds_error *err); /* [any-thread] the host waits */

  /* Since 0.10. Host memory that the device reads and writes by itself ("pinned"). Optional as a
   * group (all NULL): core then takes ordinary memory, upload and download. */
  DS_MUST_USE ds_status (*host_alloc)(ds_device *dev, size_t bytes, void **out,
                                      ds_error *err); /* [per-device] 64-byte aligned; bytes > 0 */
  void (*host_free)(ds_device *dev, void *p); /* [per-device] as free: no work may still use it */
  /* [per-stream] As upload and download, but asynchronous: src, or dst, lies within memory of
   * host_alloc and is the work's until it is done. 0 bytes succeed and do nothing. */
  DS_MUST_USE ds_status (*upload_async)(ds_stream *s, void *dst, const void *src, size_t bytes,
                                        ds_error *err);
  DS_MUST_USE ds_status (*download_async)(ds_stream *s, void *dst, const void *src, size_t bytes,
                                          ds_error *err);

  /* Since 0.10. Memory in the order of a stream. Optional as a group (all NULL): alloc and free.
   * Work given to s after stream_alloc may use the memory, and work on other streams that waits for
   * an event recorded on s since. Work given to s after stream_free may not, and what other streams
   * did with it comes before, by an event that s waits for. Memory of alloc may be given to
   * stream_free, and memory of stream_alloc to free. */
  DS_MUST_USE ds_status (*stream_alloc)(ds_stream *s, size_t bytes, void **out,
                                        ds_error *err); /* [per-stream] as alloc; bytes > 0 */
  /* [per-stream] NULL is allowed. After a failure p is still there: it is for free. */
  DS_MUST_USE ds_status (*stream_free)(ds_stream *s, void *p, ds_error *err);

  /* Since 0.10. [per-stream] Between two open devices of this plugin, or within one, directly where
   * the hardware can. s is a stream of either; it waits for nothing on the other device. Ranges
   * must not overlap; 0 bytes succeed and do nothing. Optional: core goes through the host. */
  DS_MUST_USE ds_status (*peer_copy)(ds_stream *s, ds_device *to, void *dst, ds_device *from,
                                     const void *src, size_t bytes, ds_error *err);
} ds_device_table;

/* ---------------------------------------------------------------- gemm table */

enum {
  DS_GEMM_TRANS_A = 1u << 0,  /* A is stored [k,m] */
  DS_GEMM_TRANS_B = 1u << 1,  /* B is stored [n,k] */
  DS_GEMM_PACKED_B = 1u << 2, /* B was made by pack_b for the same n, k, dtypes and TRANS_B */
  DS_GEMM_SCALES = 1u << 3    /* since 0.10: scale_a and scale_b are there */
};

typedef enum ds_epilogue {
  DS_EPILOGUE_NONE = 0,
  DS_EPILOGUE_GELU_TANH = 1,
  DS_EPILOGUE_GELU_ERF = 2,
  DS_EPILOGUE_RELU = 3,
  DS_EPILOGUE_SILU = 4
} ds_epilogue;

/* C[m,n] = epilogue(alpha * A[m,k] . B[k,n] + bias[n]) + beta * C[m,n], row-major, for each of
 * `batch` matrices. Accumulation is in f32 or better. beta is 0 or 1; with beta 0, C is not read
 * (it may hold NaN). m, n, batch may be 0 (nothing to do); k = 0 gives the epilogue of the bias. C
 * overlaps no input. A leading dimension is at least its row's length, so 0 is right for rows
 * without elements. dtype_bias is DS_F32 where bias is NULL. Every plugin with a gemm table takes
 * (A,B,C) dtypes f32,f32,f32; others as `supports` says. */
typedef struct ds_gemm {
  uint32_t size;  /* sizeof(ds_gemm) */
  uint32_t flags; /* DS_GEMM_* */
  int64_t m, n, k;
  int64_t lda, ldb,
      ldc;       /* elements from one stored row to the next; ldb is ignored with PACKED_B */
  int64_t batch; /* 1 for a plain product */
  int64_t stride_a, stride_b, stride_c; /* elements from one matrix of the batch to the next */
  int32_t dtype_a, dtype_b, dtype_c, dtype_bias;
  int32_t epilogue; /* ds_epilogue */
  float alpha, beta;
  uint32_t reserved;
  const void *a, *b;
  const void *bias; /* [n] or NULL */
  void *c;
  /* Since 0.10, read only with DS_GEMM_SCALES: f32[1] in device memory, or NULL for 1. The product is
   * of scale_a A and scale_b B (what fp8 needs, whose scales are found on the device); all of a
   * batch have the same. pack_b and pack_size ignore them. */
  const float *scale_a, *scale_b;
} ds_gemm;

typedef struct ds_gemm_table {
  ds_table base;
  /* [any-thread] Whether run would take this shape and these types. Pointers in g are ignored. */
  int (*supports)(ds_device *dev, const ds_gemm *g);
  /* [per-stream] */
  DS_MUST_USE ds_status (*run)(ds_stream *s, const ds_gemm *g, ds_error *err);
  /* Constant B, packed once (optional: both NULL).
   * pack_size [any-thread]: bytes of the packed form of B for calls like g (m is a typical row
   * count), or 0 when packing would not pay. pack_b [per-stream]: writes it to packed. */
  size_t (*pack_size)(ds_device *dev, const ds_gemm *g);
  DS_MUST_USE ds_status (*pack_b)(ds_stream *s, const ds_gemm *g, void *packed, ds_error *err);
} ds_gemm_table;

/* ---------------------------------------------------------------- quant table */

enum {
  DS_QUANT_ASYMMETRIC = 1u << 0, /* with zero points; only for DS_I8 and DS_I4 */
  DS_QUANT_PER_TENSOR = 1u << 1  /* one group for all of x; `group` is ignored */
};

/* A quantized matrix x [rows,cols], by groups of values that share a scale: per tensor (the flag),
 * per row, which is per channel of a weight (group = cols), or several groups in a row (group
 * divides cols). Groups are counted row by row; there are rows * (cols/group) of them, or 1.
 *
 *   symmetric   s = max|x| / qmax, q = clamp(round(x/s), -qmax, qmax);
 *               qmax = 127 (DS_I8), 7 (DS_I4).
 *   asymmetric  lo = min(x, 0), hi = max(x, 0), so that 0 is met exactly; s = (hi-lo)/(qmax-qmin),
 *               z = clamp(round(qmin - lo/s), qmin, qmax), q = clamp(round(x/s) + z, qmin, qmax),
 *               with qmin = -128 (DS_I8) or -8 (DS_I4). x is then s * (q - z).
 *               (Jacob et al. 2018; ONNX QuantizeLinear.)
 *   fp8         as symmetric, with q the nearest fp8 value of x/s, saturating: DS_F8E4M3 (qmax 448,
 *               "e4m3fn": no infinity) and DS_F8E5M2 (qmax 57344). (Micikevicius et al. 2022.)
 *
 * All in f32, rounding half to even; a group with no other value than 0, or whose scale underflows
 * to 0, has s = 1 and z = 0. A NaN or infinity in a group makes its scale NaN or infinity, so that
 * it is seen after dequantization. Of x without elements nothing is written.
 *
 * DS_I4 values stand two to a byte, low nibble first; cols is even. */
typedef struct ds_quant {
  uint32_t size;  /* sizeof(ds_quant) */
  uint32_t flags; /* DS_QUANT_* */
  int32_t qtype;  /* DS_I8, DS_I4, DS_F8E4M3 or DS_F8E5M2 */
  int32_t dtype;  /* of x: DS_F32 or DS_BF16 */
  int64_t rows, cols;
  int64_t group;
  void *values;  /* [rows,cols] of qtype, contiguous */
  float *scales; /* one a group */
  int8_t *zeros; /* one a group with DS_QUANT_ASYMMETRIC, else NULL */
} ds_quant;

enum {
  DS_QUANT_GEMM_DYNAMIC = 1u << 0 /* A is quantized as well; see ds_quant_gemm */
};

/* C[m,rows] = A[m,cols] . x^T + bias[rows], where x is what the ds_quant says. A, bias and C are of
 * the ds_quant's dtype; sums are in f32 or better (i32 for int8 x int8). A may be rounded to fixed
 * point, in chunks of a row, if that moves no element by more than 1e-6 (bf16: 2e-5) of its chunk's
 * largest; where A is bf16, x may be rounded to bf16. `ds conform` allows an error of 1e-5 of the
 * sum of the products' magnitudes in f32, 4e-3 in bf16, before C is rounded to its type.
 *
 * With DS_QUANT_GEMM_DYNAMIC (qtype DS_I8 only) each row of A is first quantized by itself,
 * symmetric DS_I8 as above: LLM.int8's "vector-wise" scales (Dettmers et al. 2022). C is then
 * exactly what those integers and scales give, but for rounding in f32. */
typedef struct ds_quant_gemm {
  uint32_t size;  /* sizeof(ds_quant_gemm) */
  uint32_t flags; /* DS_QUANT_GEMM_* */
  int64_t m;
  int64_t lda, ldc; /* elements from one row to the next */
  const void *a;
  const void *bias; /* or NULL */
  void *c;          /* overlaps no input */
} ds_quant_gemm;

typedef struct ds_quant_table {
  ds_table base;
  /* [any-thread] Whether quantize and dequantize would take q (g NULL), or gemm q and g. Pointers
   * in both are ignored. */
  int (*supports)(ds_device *dev, const ds_quant *q, const ds_quant_gemm *g);
  /* [per-stream] x [rows,cols], contiguous -> q's values, scales and zeros. */
  DS_MUST_USE ds_status (*quantize)(ds_stream *s, const ds_quant *q, const void *x, ds_error *err);
  /* [per-stream] The other way. */
  DS_MUST_USE ds_status (*dequantize)(ds_stream *s, const ds_quant *q, void *x, ds_error *err);
  /* [per-stream] */
  DS_MUST_USE ds_status (*gemm)(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g,
                                ds_error *err);
} ds_quant_table;

/* ---------------------------------------------------------------- comm table */

typedef struct ds_comm ds_comm; /* one rank's end of a communicator */

typedef enum ds_reduce {
  DS_REDUCE_SUM = 0,
  DS_REDUCE_MEAN = 1,
  DS_REDUCE_MAX = 2,
  DS_REDUCE_MIN = 3
} ds_reduce;

/* The world as the launcher made it, where the plugin can tell (Open MPI, Slurm); rank 0 of 1
 * otherwise. */
typedef struct ds_comm_world {
  uint32_t size;
  int32_t rank, world_size, local_rank, local_size;
} ds_comm_world;

/* A plugin may have no comm table: it then serves worlds of one rank. One that has it has all of
 * its functions.
 *
 * Collectives: every rank of the communicator calls in the same order with the same count, dtype
 * and reduce. count is in elements. Buffers are device memory; send and recv don't overlap except
 * where "in place" is noted. Every plugin with a comm table takes DS_F32, DS_BF16, DS_F16, DS_I32
 * and DS_I8 (sums of DS_I8 wrap around; a mean of whole numbers is cut towards zero); what only
 * moves takes every dtype but DS_I4. bf16 and f16 are summed in f32 and rounded once. The order of
 * summation is the same for the same communicator, count and dtype.
 *
 * All but barrier are asynchronous on s: work before them on s is done first, work after them on s
 * waits, work on other streams runs meanwhile, and a failure is the stream's (see Failures). One
 * communicator's calls must have one order on all ranks: give them to one stream, or order the
 * streams by events. [per-stream], and one call at a time for one ds_comm.
 *
 * Time: timeout_ms given to create bounds create and then each call, from when it could begin;
 * 0 is no limit. What runs out of time fails with DS_ERR_TIMEOUT, naming the call, this rank and
 * the limit, and the communicator is as after abort. */
typedef struct ds_comm_table {
  ds_table base;
  /* [any-thread] Starts the launcher's runtime if it is not running (and then ends it at process
   * end). */
  DS_MUST_USE ds_status (*world)(ds_comm_world *out, ds_error *err);
  /* [per-device] ranks: world ranks of the members in order, rank_count of them; the caller must be
   * one. kv may be NULL when the launcher's runtime does the rendezvous. Collective over the
   * members. */
  DS_MUST_USE ds_status (*create)(ds_device *dev, const int32_t *ranks, int32_t rank_count,
                                  const ds_kv_store *kv, int64_t timeout_ms, ds_comm **out,
                                  ds_error *err);
  /* Waits for the work in flight unless c was aborted. Not collective. NULL is allowed. */
  void (*destroy)(ds_comm *c);
  DS_MUST_USE ds_status (*allreduce)(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                     int64_t count, int32_t dtype, ds_reduce op,
                                     ds_error *err); /* in place: send == recv */
  /* send [ranks,recv_count] -> recv [recv_count]; in place: recv is the caller's own part of send.
   */
  DS_MUST_USE ds_status (*reduce_scatter)(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                          int64_t recv_count, int32_t dtype, ds_reduce op,
                                          ds_error *err);
  /* send [send_count] -> recv [ranks,send_count]; in place: send is the caller's own part of recv.
   */
  DS_MUST_USE ds_status (*allgather)(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                     int64_t send_count, int32_t dtype, ds_error *err);
  DS_MUST_USE ds_status (*broadcast)(ds_comm *c, ds_stream *s, void *buffer, int64_t count,
                                     int32_t dtype, int32_t root, ds_error *err);
  /* Returns when every rank has called it and the work before it on s is done. */
  DS_MUST_USE ds_status (*barrier)(ds_comm *c, ds_stream *s, ds_error *err);
  /* Between two ranks; messages of one pair arrive in the order sent. A send may wait for its recv.
   */
  DS_MUST_USE ds_status (*send)(ds_comm *c, ds_stream *s, const void *buffer, int64_t count,
                                int32_t dtype, int32_t peer, ds_error *err);
  DS_MUST_USE ds_status (*recv)(ds_comm *c, ds_stream *s, void *buffer, int64_t count,
                                int32_t dtype, int32_t peer, ds_error *err);
  /* send [ranks,count_per_rank] -> recv [ranks,count_per_rank]: part i goes to rank i. */
  DS_MUST_USE ds_status (*alltoall)(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                    int64_t count_per_rank, int32_t dtype, ds_error *err);
  /* Collective over c: ranks that give one color form a communicator, in the order of key and,
   * where keys are equal, of their rank in c. color is at least 0; with -1 a rank joins none and
   * gets NULL. The new one has c's time limit, outlives c, and is destroyed by itself. */
  DS_MUST_USE ds_status (*split)(ds_comm *c, int32_t color, int32_t key, ds_comm **out,
                                 ds_error *err);
  /* This rank's number in c and how many there are. [any-thread] */
  DS_MUST_USE ds_status (*rank)(ds_comm *c, int32_t *rank, int32_t *size, ds_error *err);
  /* [any-thread] Gives c up, on this rank: calls on it that wait, and all later ones, fail with
   * DS_ERR_ABORTED; returns at once. The other ranks are not told. Memory named in work that was
   * not done may still be written until destroy has returned. Only destroy is left to do. */
  void (*abort)(ds_comm *c);
} ds_comm_table;

/* ---------------------------------------------------------------- ops table */

/* Op ids: DS_OP_<NAME>. What each takes and gives stands in ds_ops.def. */
typedef enum ds_op_id {
#define DS_OP(id, upper, lower, n_in, n_out, n_attr) DS_OP_##upper = id,
#include "ds_ops.def"
#undef DS_OP
  DS_OP_NONE = 0
} ds_op_id;

typedef enum ds_activation {
  /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), GPT-2's "gelu_new" */
  DS_ACTIVATION_GELU_TANH = 1,
  DS_ACTIVATION_GELU_ERF = 2,
  DS_ACTIVATION_RELU = 3,
  DS_ACTIVATION_SILU = 4,
  DS_ACTIVATION_TANH = 5,
  DS_ACTIVATION_SIGMOID = 6
} ds_activation;

typedef union ds_attr {
  int64_t i;
  double f;
} ds_attr;

/* One operation, described by data. in[] and out[] hold pointers; an absent optional tensor is
 * NULL, and trailing absent ones may be left off. Attributes stand by position; a missing one has
 * its default. */
typedef struct ds_op {
  uint32_t size; /* sizeof(ds_op) */
  uint32_t id;   /* ds_op_id */
  uint32_t n_in, n_out, n_attr;
  uint32_t accumulate; /* bit i: out[i] += result instead of out[i] = result; only where ds_ops.def
                          allows it */
  const ds_tensor *const *in;
  const ds_tensor *const *out;
  const ds_attr *attr;
  void *workspace; /* device memory of at least the size that `workspace` asked for, or NULL */
  size_t workspace_size; /* bytes */
} ds_op;

typedef struct ds_ops_table {
  ds_table base;
  /* [any-thread] Whether run would take this op with these shapes, dtypes, strides and attributes.
   * Data pointers are ignored. Answers the same for the same description for as long as the device
   * is open. */
  int (*supports)(ds_device *dev, const ds_op *op);
  /* [any-thread] Scratch bytes that run needs. NULL: never any. */
  size_t (*workspace)(ds_device *dev, const ds_op *op);
  /* [per-stream] */
  DS_MUST_USE ds_status (*run)(ds_stream *s, const ds_op *op, ds_error *err);
} ds_ops_table;

/* ---------------------------------------------------------------- graph table (optional) */

typedef struct ds_graph ds_graph; /* captured work */

/* Between begin and end, work given to s is recorded and not run: ops, products, packing,
 * quantization, copy, fill, upload_async, download_async, and where the plugin can, peer_copy and
 * collectives (else DS_ERR_UNSUPPORTED). Addresses are recorded, and so is all that a descriptor
 * says, by value; what lies in memory, the host's too, is read anew at each launch. Memory named must
 * stay until destroy.
 * What waits, allocates, frees, or is about order can't be recorded: upload, download, stream_sync,
 * event_record and event_wait, stream_alloc and stream_free, begin and launch fail with DS_ERR_STATE
 * on s meanwhile. A call that is refused so, or with DS_ERR_UNSUPPORTED or DS_ERR_INVALID, is left
 * out and the recording goes on; after any other failure end fails too, with its status. Other
 * streams, and what is called on the device, are as ever. */
typedef struct ds_graph_table {
  ds_table base;
  DS_MUST_USE ds_status (*begin)(ds_stream *s, ds_error *err); /* [per-stream] */
  /* [per-stream] Whatever it returns, s then takes work as before begin. DS_ERR_STATE without begin.
   * A graph may be empty. It outlives s; stream_destroy without end drops the recording. */
  DS_MUST_USE ds_status (*end)(ds_stream *s, ds_graph **out, ds_error *err);
  /* [per-stream] s: any stream of the same device that isn't recording. Asynchronous, as the work in
   * it; launches of one graph run one after another, on whichever streams. */
  DS_MUST_USE ds_status (*launch)(ds_stream *s, ds_graph *g, ds_error *err);
  /* [per-device] None of its launches may be under way. NULL is allowed. Before close. */
  void (*destroy)(ds_graph *g);
} ds_graph_table;

/* ---------------------------------------------------------------- the plugin */

typedef struct ds_plugin {
  ds_table base;                 /* major, minor: the ABI the plugin agreed to speak */
  const char *name;              /* the same as in the note */
  const char *version;           /* the plugin's own, "0.1.0" */
  const char *description;       /* one line */
  const ds_device_table *device; /* required; the others may be NULL */
  const ds_gemm_table *gemm;
  const ds_quant_table *quant;
  const ds_comm_table *comm;
  const ds_ops_table *ops;
  const ds_graph_table *graph;
} ds_plugin;

/* The one exported symbol. Called once a process, before anything else of the plugin. host stays
 * valid for the life of the process. host_abi is what core speaks. Returns a table that stays valid
 * for the life of the process; or NULL with err filled: DS_ERR_VERSION (no common ABI) or
 * DS_ERR_NOT_FOUND (a vendor library or driver is missing; the message says which and how to get
 * it). */
typedef const ds_plugin *ds_plugin_query_fn(const ds_host *host, ds_version_range host_abi,
                                            ds_error *err);
DS_EXPORT ds_plugin_query_fn ds_plugin_query;

/* ---------------------------------------------------------------- the ELF note */

#define DS_NOTE_NAME "dscore" /* with its NUL: 7 bytes */
#define DS_NOTE_TYPE 1u

/* The descriptor of the note in section .note.dscore. Core reads it from the file with bounds
 * checks. */
typedef struct ds_note {
  uint32_t size; /* sizeof(ds_note) */
  ds_version_range abi;
  int32_t priority; /* for "auto": the highest usable wins. reference 0, cpu 100, accelerators 200
                       and up */
  char name[32];    /* [a-z0-9_-]+, NUL-terminated */
  char version[16];
  char needs[128]; /* for people: "libdnnl.so.2 libgomp.so.1" */
} ds_note;

typedef struct ds_note_section {
  uint32_t namesz, descsz, type;
  char name[8];
  ds_note desc;
} ds_note_section;

/* Put this once, at file scope, in one C file of a plugin. The range says: works with every core
 * since DS_ABI_COMPAT_MINOR. A plugin that can't do without what came later writes its own note. */
#define DS_PLUGIN_NOTE(name_, version_, priority_, needs_)                                         \
  __attribute__((section(".note.dscore"), used, aligned(4)))                                       \
  const ds_note_section ds_plugin_note_ = {sizeof DS_NOTE_NAME,                                    \
                                           sizeof(ds_note),                                        \
                                           DS_NOTE_TYPE,                                           \
                                           DS_NOTE_NAME,                                           \
                                           {sizeof(ds_note),                                       \
                                            {DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, 0},  \
                                            priority_,                                             \
                                            name_,                                                 \
                                            version_,                                              \
                                            needs_}}

#ifdef __cplusplus
}
#endif

#endif
