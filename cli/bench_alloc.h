/* bench_alloc.h - counts host memory allocations, whoever makes them.
 *
 * The program's own malloc, calloc and the like stand before the C library's: they count while a
 * count is running and pass on. With another C library than glibc, or under a sanitizer, they are
 * left out and nothing is counted.
 */
#ifndef DS_CLI_BENCH_ALLOC_H
#define DS_CLI_BENCH_ALLOC_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

bool bench_alloc_counts(void); /* whether allocations are counted in this build */
/* All counts to zero. */
void bench_alloc_reset(void);
/* Between start and stop, allocations of all threads count. */
void bench_alloc_start(void);
void bench_alloc_stop(void);
/* Calls that took memory since the reset; and those of them made by this program's own code, which
 * the engine is linked into, as opposed to libraries. */
uint64_t bench_alloc_calls(void);
uint64_t bench_alloc_own_calls(void);
/* Adds "host_allocs": {"calls":..,"bytes":..,"own_calls":..,"by":{"libfoo.so":..}}, or null. */
void bench_alloc_json(cJSON *object);
/* "0", or "12 (libstdc++.so.6 12)". */
void bench_alloc_describe(char *out, unsigned long size);

#endif
