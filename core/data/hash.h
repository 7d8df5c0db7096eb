/* hash.h - the hash behind this layer's open-addressing tables. Not for untrusted peers: an
 * adversary can make it slow, never wrong. */
#ifndef DS_DATA_HASH_H
#define DS_DATA_HASH_H

#include <stdint.h>
#include <string.h>

static inline uint64_t ds_hash_u64(uint64_t x) {
  x *= 0x9e3779b97f4a7c15u;
  return x ^ (x >> 32);
}

static inline uint64_t ds_hash_bytes(const char *bytes, size_t length) {
  uint64_t h = length, word;
  for (; length >= sizeof word; bytes += sizeof word, length -= sizeof word) {
    memcpy(&word, bytes, sizeof word);
    h = ds_hash_u64(h ^ word);
  }
  word = 0;
  memcpy(&word, bytes, length);
  return ds_hash_u64(h ^ word);
}

#endif
