/* options.h - the plugin's part of the config.
 *
 * A JSON object with any of
 *   "threads"     whole number >= 1: threads a device uses. Default: OMP_NUM_THREADS where it is a
 *                 number, else the processors this process may run on.
 *   "isa"         "auto" (default) or one of the names of isa.h: the most that our own kernels may
 *                 use, at most what the machine has. Below avx512_bf16, bf16 products run in f32.
 *                 oneDNN itself is bounded for a whole process by ONEDNN_MAX_CPU_ISA.
 *   "huge_pages"  true (default) or false: ask for 2 MiB pages in allocations of that size and up.
 *   "shared_memory"  true (default) or false: collectives among ranks of one host, all of which want
 *                 it, go without messages (comm_local.h). Only time depends on it.
 */
#ifndef DS_CPU_OPTIONS_H
#define DS_CPU_OPTIONS_H

#include "cpu.h"

typedef struct ds_cpu_options {
  int threads;
  int isa; /* enum ds_cpu_isa */
  bool huge_pages;
  bool shared_memory;
} ds_cpu_options;

/* text: see above; NULL or "" gives the defaults. DS_ERR_INVALID names the option and what is
 * allowed. [any-thread] */
ds_status ds_cpu_options_parse(const char *text, ds_cpu_options *out, ds_error *err);

#endif
