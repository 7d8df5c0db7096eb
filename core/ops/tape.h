/* tape.h - what op files share: making values, running backend ops on them, recording gradient
 * rules.
 *
 * An op's file has a forward (public, in ds.h) and a backward rule:
 *
 *     ds_value *ds_foo(ds_ctx *ctx, ds_value *x) {
 *       if (!x) return NULL;
 *       ... check shapes: return ds_ctx_fail(...)
 *       ds_value *y = ds_value_new(ctx, dtype, rank, shape);
 *       if (!ds_run(ctx, DS_OP_FOO, (ds_value *[]){x}, 1, (ds_value *[]){y}, 1, attrs, n)) return
 * NULL; return ds_record(ctx, foo_backward, (ds_value *[]){x}, 1, (ds_value *[]){y}, 1, attrs, n);
 *     }
 *
 *     static ds_status foo_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
 *       ds_grad dx = ds_grad_target(ctx, node->in[0]);   // where d(in) goes, and whether to add
 *       ... run the backward op with accumulate bit = dx.accumulate
 *     }
 */
#ifndef DS_OPS_TAPE_H
#define DS_OPS_TAPE_H

#include "ops/ctx.h"
#include "ops/parallel.h"
#include "tensor/tensor.h"

enum { DS_NODE_IN = 5, DS_NODE_OUT = 3, DS_NODE_ATTR = 3 };

/* A block of arena memory; shared by gradients that are the same numbers. */
typedef struct ds_storage {
  void *data;
  size_t bytes;
  int refs;
} ds_storage;

struct ds_value {
  ds_tensor t;
  ds_storage *storage; /* NULL: a view, a parameter, or wrapped memory */
  ds_value *base;      /* of a view: the contiguous value it looks into */
  size_t base_offset;  /* of a view: bytes from the base's first element */
  ds_value *grad;      /* of a base value, while the tape is walked; contiguous, dtype of t */
  int param;           /* parameter index, or -1 */
  bool needs_grad;
  bool keep;              /* not released by the walk */
  int uses;               /* of a base value: recorded ops that read it or a view of it */
  int32_t id_min, id_max; /* of an i32 input: the range of its elements */
  /* Under tensor parallelism (parallel.h): */
  ds_part part;
  const ds_param_split *vocab; /* of DS_PART_VOCAB: which */
  ds_value *entered;           /* in training: what column-parallel products read in its place */
  bool shared;                 /* is such a one, and whole: its gradient is summed over ranks */
  bool on_way;                 /* its gradient is being summed */
  size_t host;                 /* of an i32 input: where its elements are in the context's ids, + 1;
                                  0: not there */
};

typedef struct ds_node ds_node;
typedef ds_status (*ds_backward_fn)(ds_ctx *ctx, ds_node *node, ds_error *err);

struct ds_node {
  ds_backward_fn backward;
  int n_in, n_out;
  ds_value *in[DS_NODE_IN];
  ds_value *out[DS_NODE_OUT]; /* out[0] carries the gradient; the others are saved for backward */
  ds_attr attr[DS_NODE_ATTR];
};

/* A new contiguous value in the arena; NULL after recording the failure. */
ds_value *ds_value_new(ds_ctx *ctx, int32_t dtype, int32_t rank, const int64_t *shape);
/* Host data (f32 for a bf16 or f16 value) into a new value, which then may lie elsewhere: see record.h. */
DS_MUST_USE ds_status ds_value_fill(ds_ctx *ctx, ds_value *v, const void *host, ds_error *err);
/* A view of x with descriptor t: t.data lies within x's memory. */
ds_value *ds_value_view(ds_ctx *ctx, ds_value *x, const ds_tensor *t);
/* Runs a backend op. NULL entries are absent tensors. False after recording the failure. */
bool ds_run(ds_ctx *ctx, uint32_t op, ds_value *const *in, int n_in, ds_value *const *out,
            int n_out, const ds_attr *attr, int n_attr);
/* Parameters among these values (and views of them; NULL entries are passed over) are where the next
 * op can read them. ds_run does it by itself. */
DS_MUST_USE ds_status ds_need(ds_ctx *ctx, ds_value *const *values, int n, ds_error *err);
/* Puts the gradient rule on the tape if training and some input needs it. Returns out[0]. Unused
 * outputs may be NULL. */
ds_value *ds_record(ds_ctx *ctx, ds_backward_fn backward, ds_value *const *in, int n_in,
                    ds_value *const *out, int n_out, const ds_attr *attr, int n_attr);
/* Whether ds_record would record: forward then saves what backward needs. */
bool ds_will_record(const ds_ctx *ctx, ds_value *const *in, int n_in);

/* x itself when contiguous, else a contiguous copy (with its gradient rule). */
ds_value *ds_contiguous(ds_ctx *ctx, ds_value *x);

/* ---- for backward rules */

/* Which layouts the op that writes a gradient can write. */
typedef enum ds_layout { DS_LAYOUT_CONTIGUOUS, DS_LAYOUT_ROWS, DS_LAYOUT_STRIDED } ds_layout;

/* Where to write a gradient. */
typedef struct ds_grad {
  ds_tensor t;     /* write here; shape of the value */
  bool accumulate; /* add to what is there */
  bool wanted;     /* false: t is scratch, needed only if the op must write something */
  bool staged;     /* t is scratch that ds_grad_close adds to `final` */
  bool final_accumulate;
  ds_tensor final;
  ds_storage *scratch;
} ds_grad;

/* d(out[0]) of a node: contiguous, dtype of the value. */
const ds_tensor *ds_grad_out(const ds_node *node);
/* Prepares to write the gradient of v as elements of `dtype` in a layout the op can write; scratch
 * takes the part of the real place where that differs. v NULL: scratch of no shape, not wanted.
 * Close after the op ran. */
DS_MUST_USE ds_status ds_grad_open(ds_ctx *ctx, ds_value *v, int32_t dtype, ds_layout layout,
                                   ds_grad *g, ds_error *err);
DS_MUST_USE ds_status ds_grad_close(ds_ctx *ctx, ds_grad *g, ds_error *err);
/* d(v) += dy, where dy is the gradient of node's output: shares its memory where it can. */
DS_MUST_USE ds_status ds_grad_pass(ds_ctx *ctx, ds_value *v, ds_node *node, ds_error *err);
/* Runs a backend op on descriptors; NULL entries are absent. accumulate: bit per output. */
DS_MUST_USE ds_status ds_run_raw(ds_ctx *ctx, uint32_t op, const ds_tensor *const *in, int n_in,
                                 const ds_tensor *const *out, int n_out, uint32_t accumulate,
                                 const ds_attr *attr, int n_attr, ds_error *err);

/* ---- the context */

/* Host memory of values and nodes: bumped, rewound, kept. */
typedef struct ds_pool {
  char **chunks;
  size_t n_chunks, capacity;
  size_t chunk, offset;
} ds_pool;

typedef struct ds_pool_mark {
  size_t chunk, offset;
} ds_pool_mark;

enum { DS_MAX_SCOPES = 16 };

struct ds_ctx {
  ds_backend *backend;
  ds_arena *arena;
  ds_pool pool;
  int32_t dtype;
  bool training;
  bool constant_weights;
  ds_param_slot *slots;
  int n_slots;
  ds_param_hooks hooks;
  ds_group *sequence; /* sequence.h; NULL: sequences are whole */
  int *uses; /* by parameter: what is on the tape and reads it; only where hooks.done is wanted */
  size_t uses_capacity;
  ds_node **nodes; /* the tape */
  size_t n_nodes, node_capacity;
  struct {
    ds_arena_mark arena;
    ds_pool_mark pool;
  } scopes[DS_MAX_SCOPES];
  int n_scopes;
  size_t input_bytes; /* of host data since the last begin, as ds_record_begin wants to know it */
  struct {
    ds_group *group; /* NULL: nothing is divided */
    const ds_param_split *splits;
    bool sequence;
    ds_side *side; /* NULL: sums go to the backend's stream */
    bool busy;     /* the side has work that nobody waited for */
    int32_t *ids;  /* host copies of i32 inputs since the last begin */
    size_t n_ids, id_capacity;
    ds_value **pending; /* by parameter: this walk's gradient, until it is summed over ranks */
    size_t pending_capacity;
  } tensor;
  ds_error failure; /* status DS_OK: none */
};

/* 16-byte aligned, zeroed; NULL after recording the failure. */
void *ds_pool_alloc(ds_ctx *ctx, size_t bytes);
/* Takes the message of err, unless there is a failure already. Returns NULL. */
ds_value *ds_ctx_take_error(ds_ctx *ctx, const ds_error *err);

#endif
