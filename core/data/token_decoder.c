#include "data/token_decoder.h"

#include "data/byte_level.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

void ds_token_decoder_finish(ds_token_decoder *d) {
  for (size_t i = 0; i < d->count; i++) {
    free(d->steps[i].from);
    free(d->steps[i].to);
  }
  free(d->steps);
  memset(d, 0, sizeof *d);
}

ds_status ds_token_decoder_add(ds_token_decoder *d, ds_decode_step_kind kind, const char *from,
                               const char *to, ds_decode_step **out, ds_error *err) {
  *out = NULL;
  DS_TRY(ds_reserve(&d->steps, &d->capacity, d->count + 1, sizeof *d->steps, "decoder", err));
  ds_decode_step *step = &d->steps[d->count++];
  *step = (ds_decode_step){.kind = kind};
  if (from) step->from = strdup(from);
  if (to) step->to = strdup(to);
  if ((from && !step->from) || (to && !step->to)) return ds_fail_memory(err, "decoder");
  *out = step;
  return DS_OK;
}

void ds_token_texts_finish(ds_token_texts *t) {
  ds_str_finish(&t->text);
  free(t->ends);
  memset(t, 0, sizeof *t);
}

ds_status ds_token_texts_end(ds_token_texts *t, bool literal, ds_error *err) {
  DS_TRY(ds_str_status(&t->text, err));
  DS_TRY(ds_reserve(&t->ends, &t->capacity, t->count + 1, sizeof *t->ends, "tokens", err));
  t->ends[t->count++] = (struct ds_token_end){t->text.length, literal};
  return DS_OK;
}

/* Appends text with every `from` replaced by `to`. */
static void replace(const char *text, size_t length, const char *from, const char *to,
                    ds_str *out) {
  size_t n = strlen(from);
  const char *found, *end = text + length;
  while (n && (found = memmem(text, (size_t)(end - text), from, n))) {
    ds_str_append(out, text, (size_t)(found - text));
    ds_str_puts(out, to);
    text = found + n;
  }
  ds_str_append(out, text, (size_t)(end - text));
}

/* "<0x41>" */
static void byte_fallback(const char *text, size_t length, ds_str *out) {
  if (length == 6 && memcmp(text, "<0x", 3) == 0 && isxdigit((unsigned char)text[3]) &&
      isxdigit((unsigned char)text[4]) && text[5] == '>') {
    char digits[3] = {text[3], text[4], '\0'};
    char byte = (char)strtol(digits, NULL, 16);
    ds_str_append(out, &byte, 1);
  } else {
    ds_str_append(out, text, length);
  }
}

static void strip(const ds_decode_step *step, const char *text, size_t length, ds_str *out) {
  size_t n = strlen(step->from);
  for (int64_t i = 0; i < step->start && length >= n && memcmp(text, step->from, n) == 0; i++) {
    text += n;
    length -= n;
  }
  for (int64_t i = 0;
       i < step->stop && length >= n && memcmp(text + length - n, step->from, n) == 0; i++)
    length -= n;
  ds_str_append(out, text, length);
}

static void run_step(const ds_decode_step *step, const char *text, size_t length, bool first,
                     bool literal, ds_str *out) {
  switch (step->kind) {
    case DS_DECODE_BYTE_LEVEL:
      if (literal)
        ds_str_append(out, text, length);
      else
        ds_byte_level_decode(text, length, out);
      break;
    case DS_DECODE_BYTE_FALLBACK: byte_fallback(text, length, out); break;
    case DS_DECODE_REPLACE: replace(text, length, step->from, step->to, out); break;
    case DS_DECODE_METASPACE:
      replace(text, length, step->from, first && step->drop_first ? "" : " ", out);
      break;
    case DS_DECODE_STRIP: strip(step, text, length, out); break;
    case DS_DECODE_JOIN:
      if (!first) ds_str_puts(out, " ");
      ds_str_append(out, text, length);
      break;
    case DS_DECODE_FUSE: ds_str_append(out, text, length); break;
  }
}

ds_status ds_token_decoder_run(const ds_token_decoder *d, ds_token_texts *texts, ds_error *err) {
  ds_str out = {0};
  for (size_t k = 0; k < d->count; k++) {
    const ds_decode_step *step = &d->steps[k];
    bool fuse = step->kind == DS_DECODE_FUSE || step->kind == DS_DECODE_JOIN;
    out.length = 0;
    for (size_t i = 0, begin = 0; i < texts->count; i++) {
      size_t end = texts->ends[i].end;
      run_step(step, texts->text.data + begin, end - begin, i == 0, texts->ends[i].literal, &out);
      texts->ends[i].end = out.length;
      begin = end;
    }
    if (fuse && texts->count) {
      texts->ends[0] = (struct ds_token_end){out.length, false};
      texts->count = 1;
    }
    if (out.failed) {
      ds_str_finish(&out);
      return ds_fail_memory(err, "decoded text");
    }
    ds_str old = texts->text;
    texts->text = out;
    out = old;
  }
  ds_str_finish(&out);
  return DS_OK;
}
