#include "base/checksum.h"

#include <string.h>

/* FNV-1a over 8-byte words in four lanes, which run side by side: several GB/s. For a fixed word
 * each step maps states one to one, and for a fixed state words, so that one changed word always
 * changes its lane, and the lanes are joined by the same step. */
static uint64_t mix(uint64_t h, uint64_t word) {
  h = (h ^ word) * 0x9e3779b97f4a7c15u;
  return h ^ (h >> 29);
}

uint64_t ds_checksum(const void *data, size_t bytes) {
  const unsigned char *p = data;
  uint64_t lane[4] = {0xcbf29ce484222325u, 0x100000001b3u, 0x84222325cbf29ce4u, 0x1b300000100u};
  uint64_t words[4], h = bytes;
  size_t left = bytes;
  for (; left >= sizeof words; left -= sizeof words, p += sizeof words) {
    memcpy(words, p, sizeof words);
    for (int i = 0; i < 4; i++) lane[i] = mix(lane[i], words[i]);
  }
  memset(words, 0, sizeof words);
  if (left) memcpy(words, p, left);
  for (int i = 0; i < 4; i++) h = mix(mix(h, lane[i]), words[i]);
  return h;
}
