#include "data/utf8.h"

#include <string.h>

size_t ds_utf8_decode(const char *text, size_t length, uint32_t *code) {
  const unsigned char *p = (const unsigned char *)text;
  if (length == 0) return 0;
  if (p[0] < 0x80) {
    *code = p[0];
    return 1;
  }
  size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
  if (p[0] < 0xc2 || p[0] > 0xf4 || length < n) return 0;
  uint32_t c = p[0] & (0xffu >> (n + 1));
  for (size_t i = 1; i < n; i++) {
    if ((p[i] & 0xc0) != 0x80) return 0;
    c = c << 6 | (p[i] & 0x3f);
  }
  if (n == 3 && (c < 0x800 || (c >= 0xd800 && c <= 0xdfff))) return 0;
  if (n == 4 && (c < 0x10000 || c > 0x10ffff)) return 0;
  *code = c;
  return n;
}

size_t ds_utf8_encode(uint32_t code, char out[4]) {
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (size_t i = n - 1; i > 0; i--) {
    out[i] = (char)(0x80 | (code & 0x3f));
    code >>= 6;
  }
  out[0] = (char)((0xf00u >> n) | code);
  return n;
}

size_t ds_utf8_valid_prefix(const char *text, size_t length) {
  size_t i = 0;
  while (i < length) {
    uint64_t eight;
    if (length - i >= sizeof eight) { /* most text is ASCII */
      memcpy(&eight, text + i, sizeof eight);
      if (!(eight & 0x8080808080808080u)) {
        i += sizeof eight;
        continue;
      }
    }
    uint32_t code;
    size_t n = ds_utf8_decode(text + i, length - i, &code);
    if (n == 0) break;
    i += n;
  }
  return i;
}

bool ds_utf8_is_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}
