/* bench_ops.c - single ops through core, against the bandwidth of copying within the device's memory:
 * what moves every byte once can't be faster than that. Attention counts operations too. */
#include "bench.h"

#include "base/str.h"
#include "tensor/tensor.h"

#include <string.h>

enum { TENSORS = 8, ATTRS = 9, GROUPS = 3 };

/* Tensors by letters for their dimensions (R rows, C columns, N = R * C, and attention's B T H D), '1' for
 * one element; a prefix for the dtype where it isn't the benchmark's: f f32, h bf16 (absent in f32 runs),
 * d f64, i i32; "=k" is input k once more, "-" absent. Outputs follow '|'. */
static const struct {
  uint32_t id;
  const char *tensors;
  double flops; /* of B * H * T * T * D */
  ds_attr attr[ATTRS];
  uint32_t n_attr;
} cases[] = {
    {DS_OP_ADD, "RC RC | RC", 0, {{0}}, 0},
    {DS_OP_ACTIVATION, "RC | RC", 0, {{.i = DS_ACTIVATION_GELU_TANH}}, 1},
    {DS_OP_ACTIVATION_BACKWARD, "RC RC | RC", 0, {{.i = DS_ACTIVATION_GELU_TANH}}, 1},
    {DS_OP_SWIGLU, "RC RC | RC", 0, {{0}}, 0},
    {DS_OP_SWIGLU_BACKWARD, "RC RC RC | RC RC", 0, {{0}}, 0},
    {DS_OP_LAYER_NORM, "RC C C | RC fR fR", 0, {{0}}, 0},
    {DS_OP_LAYER_NORM_BACKWARD, "RC RC C fR fR | RC fC fC", 0, {{0}}, 0},
    {DS_OP_RMS_NORM, "RC C | RC fR", 0, {{0}}, 0},
    {DS_OP_RMS_NORM_BACKWARD, "RC RC C fR | RC fC", 0, {{0}}, 0},
    {DS_OP_SOFTMAX, "RC | RC", 0, {{0}}, 0},
    {DS_OP_CROSS_ENTROPY, "RC iR | f1 fR f1", 0, {{0}}, 0},
    {DS_OP_CROSS_ENTROPY_BACKWARD, "f1 RC iR fR f1 | RC", 0, {{0}}, 0},
    {DS_OP_EMBEDDING, "iR RC | RC", 0, {{0}}, 0},
    {DS_OP_EMBEDDING_BACKWARD, "iR RC | fRC", 0, {{0}}, 0},
    {DS_OP_REDUCE_ROWS, "RC | fC", 0, {{0}}, 0},
    {DS_OP_SUM_SQUARES, "fN | d1", 0, {{0}}, 0},
    {DS_OP_ADAMW,
     "fN fN fN fN | =1 =2 =3 hN",
     0,
     {{.f = 1e-3},
      {.f = 0.9},
      {.f = 0.999},
      {.f = 1e-8},
      {.f = 0.1},
      {.f = 1},
      {.f = 0.1},
      {.f = 0.001},
      {.f = 1}},
     9},
    /* causal: half of two products forward, of five backward */
    {DS_OP_ATTENTION, "BTHD BTHD BTHD - | BTHD fBHT", 2, {{0}}, 0},
    {DS_OP_ATTENTION_BACKWARD, "BTHD BTHD BTHD BTHD BTHD fBHT - | BTHD BTHD BTHD", 5, {{0}}, 0},
};
enum { N_CASES = sizeof cases / sizeof *cases };

typedef struct ops_bench {
  bench b;
  bench_common common;
  const char *dtype_text, *op_text;
  option_list attention_list;
  double seconds;
  int64_t rows, cols;
  int64_t attention[BENCH_LIST_MAX]; /* B, H, T, D */
  int n_attention, n_dtypes;
  int32_t dtypes[2];
  void *copy_from, *copy_to;
  size_t copy_bytes;
} ops_bench;

/* One op's tensors and their memory. */
typedef struct job {
  ds_tensor tensors[TENSORS + 4];
  bool owned[TENSORS + 4]; /* its memory is its own, and not that of another tensor */
  const ds_tensor *list[TENSORS + 4];
  int n_in, n;
  double bytes;
  ds_op op;
} job;

static int64_t extent(const ops_bench *t, char letter) {
  switch (letter) {
    case 'R': return t->rows;
    case 'C': return t->cols;
    case 'N': return t->rows * t->cols;
    case 'B': return t->attention[0];
    case 'H': return t->attention[1];
    case 'T': return t->attention[2];
    case 'D': return t->attention[3];
    default: return 1;
  }
}

/* ids: rows in turn, in an order that isn't theirs */
static ds_status make_ids(ds_backend *b, int64_t n, int64_t below, void **out, ds_error *err) {
  int32_t part[4096];
  const int64_t stretch = sizeof part / sizeof *part;
  DS_TRY(ds_backend_alloc(b, (size_t)n * sizeof *part, out, err));
  for (int64_t at = 0; at < n; at += stretch) {
    const int64_t count = n - at < stretch ? n - at : stretch;
    for (int64_t i = 0; i < count; i++) part[i] = (int32_t)((at + i) * 7919 % below);
    DS_TRY(ds_backend_upload(b, (int32_t *)*out + at, part, (size_t)count * sizeof *part, err));
  }
  return DS_OK;
}

static ds_status add_tensor(const ops_bench *t, job *j, const char *word, size_t length,
                            int32_t dtype, ds_error *err) {
  ds_tensor *x = &j->tensors[j->n];
  int64_t shape[DS_MAX_RANK];
  int32_t rank = 0, type = dtype;
  j->list[j->n] = NULL;
  if (word[0] == '=') {
    j->list[j->n++] = &j->tensors[word[1] - '0'];
    j->bytes += (double)ds_tensor_bytes(j->list[j->n - 1]);
    return DS_OK;
  }
  if (word[0] == '-' || (word[0] == 'h' && dtype != DS_BF16)) {
    j->n++;
    return DS_OK;
  }
  for (size_t i = 0; i < length; i++) {
    switch (word[i]) {
      case 'f': type = DS_F32; break;
      case 'h': type = DS_BF16; break;
      case 'd': type = DS_F64; break;
      case 'i': type = DS_I32; break;
      default: shape[rank++] = extent(t, word[i]);
    }
  }
  *x = ds_tensor_make(NULL, type, rank, shape);
  j->bytes += (double)ds_tensor_bytes(x);
  const int64_t ids_below = t->rows < t->cols ? t->rows : t->cols;
  ds_status status =
      type == DS_I32   ? make_ids(t->b.backend, ds_tensor_numel(x), ids_below, &x->data, err)
      : type == DS_F64 ? ds_backend_alloc(t->b.backend, ds_tensor_bytes(x), &x->data, err)
                       : bench_make_random(t->b.backend, type, ds_tensor_bytes(x), &x->data, err);
  j->owned[j->n] = x->data != NULL;
  j->list[j->n++] = x;
  return status;
}

static void job_finish(const ops_bench *t, job *j) {
  for (int i = 0; i < j->n; i++)
    if (j->owned[i])
      ds_backend_free(t->b.backend, j->tensors[i].data, ds_tensor_bytes(&j->tensors[i]));
}

static ds_status job_make(const ops_bench *t, int which, int32_t dtype, job *j, ds_error *err) {
  *j = (job){0};
  for (const char *p = cases[which].tensors; *p;) {
    const size_t length = strcspn(p, " ");
    if (*p == '|')
      j->n_in = j->n;
    else
      DS_TRY(add_tensor(t, j, p, length, dtype, err));
    p += length + (p[length] == ' ');
  }
  j->op = (ds_op){.size = sizeof j->op,
                  .id = cases[which].id,
                  .n_in = (uint32_t)j->n_in,
                  .n_out = (uint32_t)(j->n - j->n_in),
                  .n_attr = cases[which].n_attr,
                  .in = j->list,
                  .out = j->list + j->n_in,
                  .attr = cases[which].attr};
  return DS_OK;
}

/* Seconds of a call: of the op, or with NULL of a copy. */
static ds_status time_calls(const ops_bench *t, const ds_op *op, int calls, double *seconds,
                            ds_error *err) {
  const double start = cli_now();
  for (int i = 0; i < calls; i++)
    DS_TRY(op ? ds_backend_op(t->b.backend, op, err)
              : ds_backend_copy(t->b.backend, t->copy_to, t->copy_from, t->copy_bytes, err));
  DS_TRY(ds_backend_sync(t->b.backend, err));
  *seconds = (cli_now() - start) / calls;
  return DS_OK;
}

/* As many calls as fill the time. */
static ds_status calls_for(const ops_bench *t, const ds_op *op, int *calls, ds_error *err) {
  double once;
  DS_TRY(time_calls(t, op, 1, &once, err)); /* makes what is made once */
  DS_TRY(time_calls(t, op, 1, &once, err));
  *calls = once * 1000 > t->seconds ? 1 + (int)(t->seconds / once) : 1000;
  return DS_OK;
}

typedef struct op_times {
  bench_samples us, gb_s, copy_fraction, tflops;
} op_times;

/* Each group of calls stands between two of copies. */
static ds_status measure_job(const ops_bench *t, const job *j, double flops, op_times *out,
                             ds_error *err) {
  int calls, copies;
  double before, after, seconds;
  DS_TRY(calls_for(t, &j->op, &calls, err));
  DS_TRY(calls_for(t, NULL, &copies, err));
  DS_TRY(time_calls(t, NULL, copies, &before, err));
  for (int i = 0; i < GROUPS; i++) {
    DS_TRY(time_calls(t, &j->op, calls, &seconds, err));
    DS_TRY(time_calls(t, NULL, copies, &after, err));
    const double copied = 1e-9 * 2 * (double)t->copy_bytes * 2 / (before + after);
    bench_samples_add(&out->us, 1e6 * seconds);
    bench_samples_add(&out->gb_s, 1e-9 * j->bytes / seconds);
    bench_samples_add(&out->copy_fraction, 1e-9 * j->bytes / seconds / copied);
    if (flops > 0) bench_samples_add(&out->tflops, 1e-12 * flops / seconds);
    before = after;
  }
  return DS_OK;
}

static void print_times(const char *name, const op_times *times) {
  printf("  %-24s %10.1f us  %8.1f GB/s  (%.2f of copying)", name, bench_samples_median(&times->us),
         bench_samples_median(&times->gb_s), bench_samples_median(&times->copy_fraction));
  if (times->tflops.count > 0) printf("  %8.2f TF/s", bench_samples_median(&times->tflops));
  printf("\n");
}

static ds_status measure_case(ops_bench *t, int which, int32_t dtype, ds_error *err) {
  job j;
  op_times times = {0};
  const char *name = ds_op_name(cases[which].id);
  const double flops = cases[which].flops * (double)t->attention[0] * (double)t->attention[1] *
                       (double)t->attention[2] * (double)t->attention[2] * (double)t->attention[3];
  ds_status status = job_make(t, which, dtype, &j, err);
  if (status == DS_OK) status = measure_job(t, &j, flops, &times, err);
  job_finish(t, &j);
  DS_TRY(status);
  if (!t->common.json) print_times(name, &times);
  cJSON *r = bench_result(&t->b);
  cJSON_AddStringToObject(r, "op", name);
  cJSON_AddStringToObject(r, "dtype", ds_dtype_name(dtype));
  cJSON_AddNumberToObject(r, "bytes", j.bytes);
  bench_samples_json(&times.us, r, "us");
  bench_samples_json(&times.gb_s, r, "gb_s");
  bench_samples_json(&times.copy_fraction, r, "copy_fraction");
  bench_samples_json(&times.tflops, r, "tflops");
  return DS_OK;
}

static bool wanted(const char *list, const char *name) {
  const size_t length = strlen(name);
  for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
    if (strncmp(p, name, length) == 0 && (p[length] == ',' || p[length] == '\0')) return true;
  return !list;
}

static ds_status measure_all(ops_bench *t, ds_error *err) {
  t->copy_bytes = (size_t)(t->rows * t->cols) * sizeof(float);
  DS_TRY(bench_make_random(t->b.backend, DS_F32, t->copy_bytes, &t->copy_from, err));
  DS_TRY(ds_backend_alloc(t->b.backend, t->copy_bytes, &t->copy_to, err));
  for (int d = 0; d < t->n_dtypes; d++) {
    if (!t->common.json)
      printf("\n%s, %lld x %lld; attention %lld x %lld heads x %lld x %lld\n",
             ds_dtype_name(t->dtypes[d]), (long long)t->rows, (long long)t->cols,
             (long long)t->attention[0], (long long)t->attention[1], (long long)t->attention[2],
             (long long)t->attention[3]);
    for (int i = 0; i < N_CASES; i++)
      if (wanted(t->op_text, ds_op_name(cases[i].id)))
        DS_TRY(measure_case(t, i, t->dtypes[d], err));
  }
  return bench_report(&t->b, err);
}

/* Names that are none of the cases are mistakes. */
static bool check_names(const char *list) {
  char name[64];
  for (const char *p = list; p && *p;) {
    const size_t length = strcspn(p, ",");
    bool found = false;
    snprintf(name, sizeof name, "%.*s", (int)length, p);
    for (int i = 0; i < N_CASES && !found; i++) found = strcmp(name, ds_op_name(cases[i].id)) == 0;
    if (!found) {
      fprintf(stderr, "ds bench ops: --op: no \"%s\" among", name);
      for (int i = 0; i < N_CASES; i++) fprintf(stderr, " %s", ds_op_name(cases[i].id));
      fprintf(stderr, "\n");
      return false;
    }
    p += length + (p[length] == ',');
  }
  return true;
}

static bool check(ops_bench *t, const char *who) {
  if (!(t->seconds >= 0 && t->seconds <= 60) || t->rows < 1 || t->cols < 1 || t->rows > 1 << 24 ||
      t->cols > 1 << 24) {
    fprintf(stderr, "ds %s: --seconds must be from 0 to 60, --rows and --cols from 1 to %d\n", who,
            1 << 24);
    return false;
  }
  if (!check_names(t->op_text) || !bench_dtypes(who, t->dtype_text, t->dtypes, &t->n_dtypes) ||
      !bench_numbers(who, "--attention", &t->attention_list, 1 << 20, t->attention,
                     &t->n_attention))
    return false;
  if (t->n_attention == 4) return true;
  fprintf(stderr, "ds %s: --attention wants batch,heads,length,dimension\n", who);
  return false;
}

int bench_ops(int argc, char **argv) {
  ops_bench t = {.dtype_text = "both",
                 .seconds = 0.05,
                 .rows = 4096,
                 .cols = 1024,
                 .attention = {1, 12, 1024, 64},
                 .n_attention = 4};
  option_list words;
  ds_error err;
  const command c = {
      "bench ops",
      "Times single ops through the backend, against copying within the device's memory.",
      "[--op NAMES] [--rows R] [--cols C] [--attention B,H,T,D] [--dtype f32|bf16|both] [--json]",
      "Bytes count each tensor once. An op that fits a cache is no measure of the memory.",
      {{"--op", OPTION_STRING, &t.op_text, "NAMES", "only these, with commas (all)"},
       {"--rows", OPTION_INT, &t.rows, "R", "rows (4096)"},
       {"--cols", OPTION_INT, &t.cols, "C", "columns (1024)"},
       {"--attention", OPTION_LIST, &t.attention_list, "B,H,T,D",
        "attention's batch, heads, length, dimension (1,12,1024,64)"},
       {"--dtype", OPTION_STRING, &t.dtype_text, "TYPE", "f32, bf16 or both (both)"},
       {"--seconds", OPTION_NUMBER, &t.seconds, "S",
        "about how long a group of calls takes (0.05)"},
       BENCH_COMMON_OPTIONS(&t.common)}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  if (words.count > 0) {
    fprintf(stderr, "ds bench ops: unexpected \"%s\" (ds bench ops --help)\n", words.values[0]);
    return 2;
  }
  if (!check(&t, c.name)) return 2;
  ds_status status = bench_open("ops", &t.common, &t.b, &err);
  if (status == DS_OK) {
    status = measure_all(&t, &err);
    ds_backend_free(t.b.backend, t.copy_from, t.copy_bytes);
    ds_backend_free(t.b.backend, t.copy_to, t.copy_bytes);
    bench_finish(&t.b);
  }
  return status == DS_OK ? 0 : cli_fail("bench ops", &err);
}
