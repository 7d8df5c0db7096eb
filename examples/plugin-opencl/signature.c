/* signature.c - ds_ops.def's shapes as text, so that every op is checked by the same few lines.
 *
 * A signature lists the inputs, then '|' and the outputs, separated by spaces:
 *   RC      a contiguous f32 tensor; a letter met again must have the same size. The first letter
 *           takes all leading dimensions together
 *   ~BTHD   exactly these dimensions; only the last need be contiguous
 *   *       any shape and strides, up to rank 4
 *   1       one element
 * with i (i32) or d (f64) in front, and behind: ? may be absent, + may be accumulated into. */
#include <string.h>

#include "opencl.h"

int64_t elements(const ds_tensor *t) {
  int64_t n = 1;
  for (int32_t d = 0; d < t->rank; d++) n *= t->shape[d];
  return n;
}

static bool bind(sizes *z, char letter, int64_t size) {
  if (letter == '1') return size == 1;
  int64_t *known = &z->of[letter - 'A'];
  if (*known < 0) *known = size;
  return *known == size;
}

static bool is_contiguous(const ds_tensor *t, int32_t from) {
  int64_t expected = 1;
  for (int32_t d = t->rank - 1; d >= from; d--) {
    if (t->shape[d] != 1 && t->stride[d] != expected) return false;
    expected *= t->shape[d];
  }
  return true;
}

/* word: one tensor of a signature, without its prefix; n letters. */
static bool shape_fits(const char *word, int32_t n, bool strided, const ds_tensor *t, sizes *z) {
  if (strided ? t->rank != n : t->rank < n - 1) return false;
  if (elements(t) && !is_contiguous(t, strided ? t->rank - 1 : 0)) return false;
  int64_t leading = 1;
  for (int32_t d = 0; d <= t->rank - n; d++) leading *= t->shape[d];
  if (!bind(z, word[0], leading)) return false;
  for (int32_t i = 1; i < n; i++)
    if (!bind(z, word[i], t->shape[t->rank - n + i])) return false;
  return true;
}

static bool tensor_fits(const char *word, size_t length, const ds_tensor *t, bool accumulate,
                        sizes *z) {
  const char *behind = word + strcspn(word, "?+ ");
  const size_t marks = (size_t)(word + length - behind);
  if (!t) return memchr(behind, '?', marks) != NULL;
  if (accumulate && !memchr(behind, '+', marks)) return false;
  if (t->rank < 0 || t->rank > DS_MAX_RANK) return false;
  const int32_t dtype = *word == 'i' ? DS_I32 : *word == 'd' ? DS_F64 : DS_F32;
  if (t->dtype != dtype) return false;
  if (dtype != DS_F32) word++;
  if (*word == '*') return t->rank <= 4;
  const bool strided = *word == '~';
  if (strided) word++;
  return shape_fits(word, (int32_t)(behind - word), strided, t, z);
}

bool signature_fits(const char *signature, const ds_op *op, sizes *z) {
  uint32_t i = 0;
  bool output = false;
  memset(z, -1, sizeof *z);
  for (const char *p = signature; *p;) {
    const size_t length = strcspn(p, " ");
    if (*p == '|') {
      while (i < op->n_in)
        if (op->in[i++]) return false; /* one more than the signature has */
      i = 0;
      output = true;
    } else if (!tensor_fits(p, length, output ? op_out(op, i) : op_in(op, i),
                            output && op->accumulate >> i & 1, z)) {
      return false;
    } else {
      i++;
    }
    p += length;
    p += strspn(p, " ");
  }
  while (i < op->n_out)
    if (op->out[i++]) return false;
  return true;
}
