#include "test.h"

#include "data/byte_level.h"
#include "data/utf8.h"

static void test_all_scalars(void) {
  int bad = 0;
  for (uint32_t c = 0; c <= 0x10ffff; c++) {
    if (c >= 0xd800 && c <= 0xdfff) continue;
    char text[4];
    uint32_t back = 0;
    size_t n = ds_utf8_encode(c, text);
    bad += ds_utf8_decode(text, n, &back) != n || back != c;
    bad += ds_utf8_decode(text, n - 1, &back) != 0;
  }
  CHECK(bad == 0);
}

static void test_invalid(void) {
  static const char *const bad[] = {"\x80",
                                    "\xc0\xaf",
                                    "\xc1\xbf",
                                    "\xe0\x80\xaf",
                                    "\xed\xa0\x80",
                                    "\xf0\x80\x80\xaf",
                                    "\xf4\x90\x80\x80",
                                    "\xf5\x80\x80\x80",
                                    "\xff",
                                    "\xe2\x96",
                                    "\xc3("};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    uint32_t code;
    CHECK(ds_utf8_decode(bad[i], strlen(bad[i]), &code) == 0);
  }
}

static void test_valid_prefix(void) {
  CHECK(ds_utf8_valid_prefix("", 0) == 0);
  CHECK(ds_utf8_valid_prefix("0123456789abcdef", 16) == 16);
  CHECK(ds_utf8_valid_prefix("01234567\xff", 9) == 8);
  CHECK(ds_utf8_valid_prefix("0123456789\xc3\xa9\xc3", 13) == 12);
}

static void test_byte_level(void) {
  int bad = 0;
  for (int i = 0; i < 256; i++)
    bad += ds_byte_level_byte(ds_byte_level_char((unsigned char)i)) != i;
  for (uint32_t c = 0; c < 1000; c++) {
    int byte = ds_byte_level_byte(c);
    bad += byte >= 0 && ds_byte_level_char((unsigned char)byte) != c;
  }
  CHECK(bad == 0);
  CHECK(ds_byte_level_char(' ') == 0x120 && ds_byte_level_char('\n') == 0x10a);
  CHECK(ds_byte_level_char('a') == 'a' && ds_byte_level_char(0xad) == 0x143);
  ds_str s = {0};
  ds_byte_level_encode(" a\n", 3, &s);
  CHECK(s.data && strcmp(s.data, "\xc4\xa0"
                                 "a\xc4\x8a") == 0);
  ds_str back = {0};
  ds_byte_level_decode(s.data, s.length, &back);
  ds_byte_level_decode("\xe2\x96\x81x", 4, &back); /* not in the alphabet: stays */
  CHECK(back.data && strcmp(back.data, " a\n\xe2\x96\x81x") == 0);
  ds_str_finish(&s);
  ds_str_finish(&back);
}

int main(void) {
  test_all_scalars();
  test_invalid();
  test_valid_prefix();
  test_byte_level();
  return TEST_RESULT();
}
