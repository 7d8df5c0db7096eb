/* The vector layer for what every machine has (SSE2, NEON). */
#include "test.h"

#include "simd_cases.h"

int main(void) {
  simd_cases();
  return TEST_RESULT();
}
