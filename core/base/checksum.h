/* checksum.h - 64 bits that change when any single bit of a file does. Not against an adversary. */
#ifndef DS_BASE_CHECKSUM_H
#define DS_BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint64_t ds_checksum(const void *data, size_t bytes);

#endif
