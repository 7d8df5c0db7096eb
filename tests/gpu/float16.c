/* float16.c - the compiler's half, for test_port_types.cpp: C has it where C++ doesn't. */
#include <stdint.h>
#include <string.h>

uint16_t float16_from(float x);
float float16_to(uint16_t bits);

uint16_t float16_from(float x) {
  const _Float16 y = (_Float16)x;
  uint16_t bits;
  memcpy(&bits, &y, sizeof bits);
  return bits;
}

float float16_to(uint16_t bits) {
  _Float16 y;
  memcpy(&y, &bits, sizeof y);
  return (float)y;
}
