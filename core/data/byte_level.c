#include "data/byte_level.h"

#include "data/utf8.h"

uint32_t ds_byte_level_char(unsigned char byte) {
  if (byte < 33) return 256u + byte;
  if (byte < 127) return byte;
  if (byte < 161) return 256u + 33 + (byte - 127u);
  return byte == 173 ? 256u + 33 + 34 : byte;
}

int ds_byte_level_byte(uint32_t code) {
  if (code < 33 || code == 173 || code > 256 + 33 + 34 || (code >= 127 && code < 161)) return -1;
  if (code < 256) return (int)code;
  code -= 256;
  return (int)(code < 33 ? code : code < 33 + 34 ? code - 33 + 127 : 173);
}

void ds_byte_level_encode(const char *bytes, size_t length, ds_str *out) {
  for (size_t i = 0; i < length; i++) {
    char utf8[4];
    ds_str_append(out, utf8, ds_utf8_encode(ds_byte_level_char((unsigned char)bytes[i]), utf8));
  }
}

void ds_byte_level_decode(const char *text, size_t length, ds_str *out) {
  size_t before = out->length;
  for (size_t i = 0; i < length && !out->failed;) {
    uint32_t code;
    size_t n = ds_utf8_decode(text + i, length - i, &code);
    int byte = n ? ds_byte_level_byte(code) : -1;
    if (byte < 0) {
      out->length = before;
      ds_str_append(out, text, length);
      return;
    }
    char c = (char)byte;
    ds_str_append(out, &c, 1);
    i += n;
  }
}
