/* bench_probe.h - the host's limits, measured: multiply-adds a second in f32 and in bf16 dot
 * products, and the bandwidth of reading main memory.
 *
 * Each call takes some 40 ms, so that it can stand before and after every timing. All calls are
 * remembered: the report at the end gives their median, minimum and maximum. Functions take a NULL
 * probe, which knows nothing (NAN, null).
 */
#ifndef DS_CLI_BENCH_PROBE_H
#define DS_CLI_BENCH_PROBE_H

#include "base/status.h"

#include <cjson/cJSON.h>

typedef struct bench_probe bench_probe;

/* threads: as many as the backend uses. */
DS_MUST_USE ds_status bench_probe_create(int threads, bench_probe **out, ds_error *err);
void bench_probe_destroy(bench_probe *p);

/* GF/s in products of this dtype (DS_F32, DS_BF16), a multiply-add counting two. Where the machine
 * has no bf16 dot product, bf16 is as fast as f32 at best, and the f32 figure comes back. */
double bench_probe_peak(bench_probe *p, int32_t dtype);
/* GB/s of reading an array much larger than the caches; NAN too when there is no memory for it. */
double bench_probe_read(bench_probe *p);

/* Adds "peak_f32_gflops", "peak_bf16_gflops", "read_gb_s" to the machine's description; what was
 * not asked for before is measured now. */
void bench_probe_json(bench_probe *p, cJSON *machine);
void bench_probe_print(const bench_probe *p);

#endif
