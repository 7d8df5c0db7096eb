/* utf8.h - UTF-8, strictly: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
#ifndef DS_DATA_UTF8_H
#define DS_DATA_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character that text begins with, its code point in *code; 0 when it is none. */
size_t ds_utf8_decode(const char *text, size_t length, uint32_t *code);
/* Writes 1 to 4 bytes; returns how many. code must be a Unicode scalar value. */
size_t ds_utf8_encode(uint32_t code, char out[4]);
/* Length of the longest prefix that is valid. */
size_t ds_utf8_valid_prefix(const char *text, size_t length);
/* Unicode's White_Space. */
bool ds_utf8_is_space(uint32_t code);

#endif
