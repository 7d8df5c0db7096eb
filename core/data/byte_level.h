/* byte_level.h - GPT-2's alphabet: every byte as one printable character, so that a vocabulary of
 * strings can hold any bytes (Radford et al. 2019). Bytes that print stand for themselves; the
 * others (blanks, controls, 0x7f-0xa0, 0xad) take U+0100, U+0101, ... in their order: a space is
 * U+0120. */
#ifndef DS_DATA_BYTE_LEVEL_H
#define DS_DATA_BYTE_LEVEL_H

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

/* The character of a byte. */
uint32_t ds_byte_level_char(unsigned char byte);
/* The byte of a character, or -1. */
int ds_byte_level_byte(uint32_t code);
/* Appends bytes in the alphabet. */
void ds_byte_level_encode(const char *bytes, size_t length, ds_str *out);
/* Appends the bytes that text stands for; text that isn't wholly in the alphabet stands for
 * itself. */
void ds_byte_level_decode(const char *text, size_t length, ds_str *out);

#endif
