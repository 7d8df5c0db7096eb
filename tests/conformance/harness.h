/* harness.h - what every file of the conformance harness shares.
 *
 * A test case is one call of one op: its inputs as exact float64 values, the outputs that the
 * float64 reference expects, and where all of them lie in device memory. cases_*.c make cases with
 * fuzzed shapes, ref64_*.c say what must come out (naively, from the formulas of abi/ds_ops.def),
 * check.c runs a case on a plugin and compares, prove.c holds the references' gradients against
 * finite differences of the references themselves. The plugin is reached only through the ABI.
 *
 * All of it runs in child processes of `ds conform` (suite.h): one that crashes, hangs or exits is
 * a failure of the check it was at. When the host has no memory the child says so and exits.
 */
#ifndef CONFORMANCE_HARNESS_H
#define CONFORMANCE_HARNESS_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ds_abi.h"

enum { MAX_IN = 7, MAX_OUT = 4, MAX_ATTR = 9, MAX_STORES = MAX_IN + MAX_OUT, GUARD = 256 };

/* ---------------------------------------------------------------- memory, random numbers, dtypes
 */

/* Zeroed memory that lives until harness_pool_free(). */
typedef struct pool {
  void **blocks;
  size_t count, room;
} pool;

void *harness_alloc(pool *p, size_t count, size_t size);
void harness_pool_free(pool *p);

uint64_t harness_random(uint64_t *state);
double harness_uniform(uint64_t *state); /* in [0,1) */
double harness_normal(uint64_t *state);

size_t harness_dtype_size(int32_t dtype);
const char *harness_dtype_name(int32_t dtype);
/* The nearest value of dtype (round to nearest even, overflow to infinity). */
double harness_round(int32_t dtype, double v);
/* Half the distance between neighbours, relative: the least error a value of dtype must have. */
double harness_half_ulp(int32_t dtype);
void harness_store(int32_t dtype, void *base, int64_t index, double v); /* v rounds as above */
double harness_load(int32_t dtype, const void *base, int64_t index);

/* ---------------------------------------------------------------- test cases */

/* One tensor of a case. val, mag, mag_x and prior are contiguous, n elements.
 * An output is right when |got - (val + prior)| <= rounding of its dtype + tol * mag +
 * tol_x * mag_x. */
typedef struct slot {
  bool present;
  bool exact; /* output: val, rounded to dtype, must come out bit for bit */
  bool any;   /* output: the contract leaves the value open; only its place is checked */
  int32_t dtype, rank;
  int64_t shape[DS_MAX_RANK], stride[DS_MAX_RANK];
  int64_t n;
  int store;      /* index of the allocation it lies in */
  int64_t offset; /* elements from the start of the store */
  double *val;    /* inputs: the values; outputs: what the reference computed */
  double *mag;    /* outputs: the sum of magnitudes that f32 rounding errors scale with */
  double *mag_x;  /* outputs: the same for intermediates that may be rounded to bf16 */
  double *prior;  /* outputs: earlier contents when accumulating */
} slot;

typedef struct test_case test_case;
typedef struct conformance conformance;

/* For calls that are no ds_op (gemm, quant): how to ask and how to run. in[] and out[] are the
 * device addresses of the case's tensors. */
typedef struct call_hooks {
  int (*supports)(conformance *k, const test_case *c);
  ds_status (*run)(conformance *k, const test_case *c, void *const *in, void *const *out,
                   ds_error *err);
} call_hooks;

typedef struct op_spec {
  uint32_t id;
  const char *name;
  int variants;                    /* dtype combinations */
  void (*make)(test_case *c);      /* shapes and inputs */
  void (*reference)(test_case *c); /* outputs' val, mag, mag_x */
  double tol;                      /* times mag */
  double tol_x;                    /* times mag_x, when the activation type has 16 bits */
  const call_hooks *hooks;         /* NULL: a ds_op */
} op_spec;

struct test_case {
  const op_spec *spec;
  int variant, index;
  int32_t x;  /* the activation type */
  bool proof; /* tiny shapes, nothing rounded: for finite differences */
  bool big;   /* for timing: shapes are given, values stay cheap */
  uint64_t rng;
  pool mem;
  slot in[MAX_IN], out[MAX_OUT];
  int n_stores;
  ds_attr attr[MAX_ATTR];
  bool attr_default[MAX_ATTR];
  int n_attr;
  uint32_t trim; /* bits: leave off absent trailing inputs, outputs, default attributes */
  uint32_t accumulate;
  /* For gradients: the forward case, the input here that is the gradient of its output dy_out, and
   * for each output here the forward input it is the gradient of. */
  test_case *forward;
  int dy_in, dy_out, gradient_of[MAX_OUT];
  const void *call; /* for hooks: the ds_gemm or ds_quant */
};

/* case.c */
void case_init(test_case *c, const op_spec *spec, int variant, int index, uint64_t seed);
void case_finish(test_case *c);
/* A forward case inside a backward one; freed with it. */
test_case *case_forward(test_case *c, uint32_t op);
double *case_array(test_case *c, int64_t n);
int64_t case_range(test_case *c, int64_t low, int64_t high); /* both included */
bool case_chance(test_case *c, int one_in);
/* A dimension <= high: edge values first of all; tiny when c->proof. */
int64_t case_dim(test_case *c, int64_t high);
/* Rounds to dtype unless the case is a proof. */
double case_round(const test_case *c, int32_t dtype, double v);

/* Set up a tensor, contiguous; inputs get zeros, outputs nothing. */
slot *case_in(test_case *c, int i, int32_t dtype, int rank, const int64_t *shape);
slot *case_out(test_case *c, int i, int32_t dtype, int rank, const int64_t *shape);
/* The same with one dimension, and with [rows, cols] where rows may be split in several. */
slot *case_in1(test_case *c, int i, int32_t dtype, int64_t n);
slot *case_out1(test_case *c, int i, int32_t dtype, int64_t n);
int case_rows(test_case *c, int64_t rows, int64_t cols, int64_t *shape); /* gives the rank */
void case_normal(test_case *c, slot *s, double mean, double scale);
void case_ids(test_case *c, slot *s, int64_t limit);
/* The values of `from`, rounded to the dtype of s. */
void case_values(test_case *c, slot *s, const double *from);
/* out shares the memory of in. */
void case_alias(slot *out, const slot *in);
/* Gives the tensor gaps between rows, or another order of its outer dimensions. */
void case_stride_rows(test_case *c, slot *s);
void case_stride_any(test_case *c, slot *s, bool last_contiguous);
/* Several [B,T,H,D] tensors side by side in rows of one store, as a fused projection gives. */
void case_fuse(test_case *c, slot **s, int count);
/* Chooses the accumulate bits among those of mask (all combinations come in turn) and gives the
 * outputs prior contents. Call when all outputs are set up. */
void case_accumulate(test_case *c, uint32_t mask);
void case_attr_f(test_case *c, int i, double value, bool is_default);
void case_attr_i(test_case *c, int i, int64_t value, bool is_default);
int64_t case_offset(const slot *s, int64_t element); /* of element in the store, by strides */
/* mag and mag_x of an output, made on first use. */
double *case_mag(test_case *c, int out);
double *case_mag_x(test_case *c, int out);
/* "x[2,3,8] w[8] acc=1", for messages */
void case_describe(const test_case *c, char *text, size_t room);

/* ---------------------------------------------------------------- running on a plugin */

struct conformance {
  const char *path;        /* of the plugin; "reference" */
  const char *options;     /* for the device's open, or NULL */
  ds_host host;            /* what the plugin gets */
  const ds_plugin *plugin; /* complete tables: what the plugin doesn't have is NULL */
  ds_device *dev;
  ds_stream *stream;
  const char *section; /* reports go under this name */
  const char *only;    /* an op name, or NULL */
  uint64_t seed;
  int cases;        /* per op and dtype */
  int report;       /* the file that records are written to */
  char *doing;      /* DOING bytes: what is being done, for when this process ends early */
  void *of_section; /* a section's own */
  int passed, failed, unsupported;
};

enum { DOING = 1024 };

/* The outcome of several cases that share a line of the report. */
typedef struct tally {
  int cases, unsupported, failed;
  double max_err;   /* largest error relative to the sum of magnitudes */
  double max_share; /* largest error as a share of the tolerance */
  double tol;       /* relative to the sum of magnitudes */
  char message[1600];
} tally;

/* check.c */
void check_case(conformance *k, test_case *c, tally *t);
bool check_wanted(const conformance *k, const char *name);
void check_fail(tally *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Says that nothing was tried because the plugin declares so, and why. */
void check_unsupported(tally *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* What is being done now: told when the process ends before it is done. */
void check_doing(conformance *k, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Whether a failure carries its status and a message that ends; err was set by check_error_new. */
bool check_explained(ds_status returned, const ds_error *err);
/* What err says, for a message; "" after success, "(no message)" when nothing was written. */
const char *check_text(ds_status returned, const ds_error *err);
/* An error struct without any NUL, so that a message must bring its own. */
ds_error check_error_new(void);
/* Sends the line to the parent and counts it. */
void check_report(conformance *k, const tally *t, const char *name, const char *dtype);

/* Device memory between two guard zones. */
typedef struct guarded {
  void *base; /* of the allocation */
  unsigned char *image;
  size_t bytes; /* without guards */
} guarded;

#define GUARDED_AT(g, offset) ((void *)((char *)(g)->base + GUARD + (offset)))

/* Device memory with the image's bytes, which are the caller's to set between make and upload. */
bool check_make(conformance *k, guarded *g, size_t bytes, tally *t);
bool check_upload(conformance *k, const guarded *g, tally *t);
/* Downloads everything, guards included, into `to` (bytes + 2 * GUARD). */
bool check_download(conformance *k, const guarded *g, unsigned char *to, tally *t);
void check_drop(conformance *k, guarded *g);
/* Whether `got` is within bound of expected; infinities and NaN must be met exactly. */
bool check_close(double got, double expected, double bound);

/* What a case looks like in device memory and to the plugin. */
typedef struct device_call {
  guarded stores[MAX_STORES], workspace;
  ds_tensor tensor_in[MAX_IN], tensor_out[MAX_OUT];
  const ds_tensor *in[MAX_IN], *out[MAX_OUT];
  ds_op op;
} device_call;

/* For timing: sets up and uploads the case without a reference; check_stop releases it. */
bool check_start(conformance *k, test_case *c, device_call *r, tally *t);
ds_status check_launch(conformance *k, const test_case *c, const device_call *r, ds_error *err);
void check_stop(conformance *k, device_call *r);

/* ops.c: the table of all ops with their tolerances */
extern const op_spec ops_table[];
extern const int ops_count;
const op_spec *ops_find(uint32_t id);
void ops_variant_name(const op_spec *spec, int variant, char *text, size_t room);

/* prove.c: the references' gradients against finite differences; no plugin is involved */
void prove_all(conformance *k);

/* cases_gemm.c, cases_ops.c, cases_quant.c, cases_quant_special.c (which cases_quant calls) */
void cases_ops(conformance *k);
void cases_gemm(conformance *k);
/* A large product [m,n,k] with weights [n,k]; false when the plugin doesn't pack or take it. */
bool cases_gemm_sized(conformance *k, test_case *c, int variant, const int64_t *size, bool packed);
void cases_quant(conformance *k);
void cases_quant_special(conformance *k);

/* timing.c */
void timing_all(conformance *k);

/* ref64_gemm.c: values in float64, row-major with leading dimensions; mag may be NULL */
typedef struct gemm64 {
  bool trans_a, trans_b;
  int64_t m, n, k, lda, ldb, ldc;
  int32_t epilogue;
  double alpha, beta;
  const double *a, *b, *bias;
  double *c, *mag;
} gemm64;
void ref64_gemm(const gemm64 *g);

/* ref64_sample.c: moves the draws of a case of `sample` away from the edges of sums; false where top_p
 * stands at one. */
bool ref64_sample_settle(test_case *c);

/* ref64_activation.c */
double ref64_activation(int64_t kind, double x);
double ref64_activation_slope(int64_t kind, double x);

/* One make and one reference for each op. */
#define DS_OP(id, upper, lower, n_in, n_out, n_attr)                                               \
  void make_##lower(test_case *c);                                                                 \
  void ref64_op_##lower(test_case *c);
#include "ds_ops.def"
#undef DS_OP

#endif
