/* signature.c - an op's tensors against its signature. */
#include "signature.h"

#include <string.h>

#define MOST_ELEMENTS (INT64_MAX / 64)

/* One tensor of an op, and one word of a signature. */
typedef struct place {
  const char *op;
  const char *word; /* ends at a space or the end */
  const ds_tensor *t;
  uint32_t at;
  bool output;
} place;

static ds_status refuse(const place *p, ds_status status, const char *why, ds_error *err) {
  return gpu_fail(err, status, "%s: %s %u, \"%.*s\", %s", p->op, p->output ? "output" : "input",
                  (unsigned)p->at, (int)strcspn(p->word, " "), p->word, why);
}

int64_t gpu_elements(const ds_tensor *t) {
  int64_t n = 1;
  for (int32_t d = 0; d < t->rank; d++) n *= t->shape[d];
  return n;
}

static bool has_mark(const place *p, char mark) {
  return memchr(p->word, mark, strcspn(p->word, " ")) != NULL;
}

static ds_status check_dims(const place *p, ds_error *err) {
  if (p->t->rank < 0 || p->t->rank > DS_MAX_RANK)
    return refuse(p, DS_ERR_INVALID, "has an impossible rank", err);
  int64_t n = 1; /* zeros count as ones, so that no partial product overflows either */
  for (int32_t d = 0; d < p->t->rank; d++) {
    const int64_t size = p->t->shape[d];
    if (size < 0 || size > MOST_ELEMENTS / n)
      return refuse(p, DS_ERR_INVALID, "has an impossible shape", err);
    if (size > 0) n *= size;
  }
  return DS_OK;
}

/* Steps over the letter of the type. */
static ds_status check_dtype(const place *p, const char **word, gpu_shape *shape, bool *x_known,
                             ds_error *err) {
  const int32_t t = p->t->dtype;
  bool fits = false;
  switch (*(*word)++) {
    case 'f': fits = t == DS_F32; break;
    case 'd': fits = t == DS_F64; break;
    case 'h': fits = t == DS_BF16; break;
    case 'i': fits = t == DS_I32; break;
    case 'a': fits = t == DS_F32 || t == DS_BF16 || t == DS_F16; break;
    case 'p': fits = t == DS_F32 || t == DS_BF16 || t == DS_I32; break;
    default:
      (*word)--;
      fits = *x_known ? t == shape->x : t == DS_F32 || t == DS_BF16;
      shape->x = t;
      *x_known = true;
  }
  return fits ? DS_OK : refuse(p, DS_ERR_UNSUPPORTED, "has a type that is not offered here", err);
}

static bool is_contiguous(const ds_tensor *t, int32_t from) {
  int64_t expected = 1;
  for (int32_t d = t->rank - 1; d >= from; d--) {
    if (t->shape[d] != 1 && t->stride[d] != expected) return false;
    expected *= t->shape[d];
  }
  return true;
}

static ds_status check_strides(const place *p, int32_t from, ds_error *err) {
  if (gpu_elements(p->t) == 0) return DS_OK;
  if (!is_contiguous(p->t, from))
    return refuse(p, DS_ERR_INVALID,
                  from > 0 ? "must be contiguous in its last dimension" : "must be contiguous",
                  err);
  for (int32_t d = 0; p->output && d < p->t->rank; d++)
    if (p->t->shape[d] > 1 && p->t->stride[d] == 0)
      return refuse(p, DS_ERR_INVALID, "overlaps itself: a stride is 0", err);
  return DS_OK;
}

static bool bind(gpu_shape *shape, char letter, int64_t size) {
  int64_t *known = &shape->of[letter - 'A'];
  if (*known < 0) *known = size;
  return *known == size;
}

static ds_status check_shape(const place *p, const char *word, gpu_shape *shape, ds_error *err) {
  const ds_tensor *t = p->t;
  if (*word == '*') {
    if (t->rank > 4) return refuse(p, DS_ERR_INVALID, "has a rank above 4", err);
    return check_strides(p, t->rank, err);
  }
  if (*word >= '0' && *word <= '9') {
    if (gpu_elements(t) != *word - '0')
      return refuse(p, DS_ERR_INVALID, "has another number of elements", err);
    return check_strides(p, 0, err);
  }
  const bool strided = *word == '~';
  if (strided) word++;
  const int32_t letters = (int32_t)strspn(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
  const bool folds = memchr("RKN", *word, 3) != NULL;
  if (folds ? t->rank < letters - 1 : t->rank != letters)
    return refuse(p, DS_ERR_INVALID, "has another rank", err);
  int64_t leading = 1;
  for (int32_t d = 0; d <= t->rank - letters; d++) leading *= t->shape[d];
  bool same = bind(shape, word[0], leading);
  for (int32_t i = 1; i < letters; i++)
    same = bind(shape, word[i], t->shape[t->rank - letters + i]) && same;
  if (!same) return refuse(p, DS_ERR_INVALID, "has another size than the tensors before it", err);
  return check_strides(p, strided && t->rank == letters ? letters - 1 : 0, err);
}

static ds_status check_tensor(const place *p, gpu_shape *shape, bool *x_known, ds_error *err) {
  const char *word = p->word;
  if (!p->t) return has_mark(p, '?') ? DS_OK : refuse(p, DS_ERR_INVALID, "is missing", err);
  ds_status st = check_dims(p, err);
  if (st == DS_OK) st = check_dtype(p, &word, shape, x_known, err);
  return st == DS_OK ? check_shape(p, word, shape, err) : st;
}

ds_status gpu_signature_check(const char *name, const char *signature, const ds_op *op,
                              gpu_shape *shape, ds_error *err) {
  place p = {.op = name};
  bool x_known = false;
  *shape = (gpu_shape){.x = DS_F32};
  for (int i = 0; i < 26; i++) shape->of[i] = -1;
  for (const char *word = signature; *word; word += strspn(word, " ")) {
    p.word = word;
    word += strcspn(word, " ");
    if (*p.word == '|') {
      p.output = true;
      p.at = 0;
      continue;
    }
    p.t = p.output ? gpu_out(op, p.at) : gpu_in(op, p.at);
    if (p.output && op->accumulate >> p.at & 1 && !has_mark(&p, '+'))
      return refuse(&p, DS_ERR_INVALID, "can't be added to", err);
    const ds_status st = check_tensor(&p, shape, &x_known, err);
    if (st != DS_OK) return st;
    p.at++;
  }
  if (op->accumulate >> p.at)
    return gpu_fail(err, DS_ERR_INVALID, "%s: accumulate is 0x%x, but it has %u outputs", name,
                    (unsigned)op->accumulate, (unsigned)p.at);
  return DS_OK;
}

ds_status gpu_signature_data(const char *name, const ds_op *op, ds_error *err) {
  for (uint32_t i = 0; i < op->n_in + op->n_out; i++) {
    const bool output = i >= op->n_in;
    const ds_tensor *t = output ? op->out[i - op->n_in] : op->in[i];
    if (t && !t->data && gpu_elements(t) > 0)
      return gpu_fail(err, DS_ERR_INVALID, "%s: %s %u has no data", name,
                      output ? "output" : "input", (unsigned)(output ? i - op->n_in : i));
  }
  return DS_OK;
}
