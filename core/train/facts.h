/* facts.h - what all ranks of an engine must have alike (parallel/agree.h).
 *
 * The library's version and ABI; the backend's plugin and its version; every key of the resolved
 * config; the model's name, config, parameters in order with shapes and groups; the optimizer, its
 * groups, the schedule; and with training data its length, and the seed, which shuffles it. (Without
 * data seeds may differ, and where ranks hold parts of the model: rank 0's is everybody's then.)
 *
 * Config keys that may differ from rank to rank: those of "backend" but comm_timeout (folders, threads,
 * what is recorded), local paths (nvme_path), and what is only shown or written down: steps_per_print,
 * log_level, wall_clock_breakdown, memory_breakdown, dump_state, flops_profiler, tensorboard,
 * csv_monitor, wandb, comet, trackio; and aio, the tuning of this host's disks.
 */
#ifndef DS_TRAIN_FACTS_H
#define DS_TRAIN_FACTS_H

#include "parallel/agree.h"
#include "train/engine.h"

/* Before anything that ranks do together by their configs: the code and the config, but for batch sizes,
 * which may be given in several ways. Failures show in ds_agree_status. */
void ds_facts_begin(const ds_engine *e, ds_agree *out);
/* Once the model is declared, and the optimizer and the schedule are made: the rest. */
void ds_facts_collect(const ds_engine *e, const ds_dataset *data, ds_agree *out);

#endif
