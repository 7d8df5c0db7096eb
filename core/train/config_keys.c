/* The table of config keys. One line a key; the order is that of resolved configs. */
#include "train/config_keys.h"

#include <math.h>

#include "optim/loss_scaler.h"

#define BOOL(path, state, fallback)                                                                \
  { path, DS_SCHEMA_BOOL, DS_SCHEMA_##state, fallback, 0, 0, NULL, NULL }
#define INT(path, state, fallback, min)                                                            \
  { path, DS_SCHEMA_INT, DS_SCHEMA_##state, fallback, min, 0x1p53, NULL, NULL }
#define NUMBER(path, state, fallback, min, max)                                                    \
  { path, DS_SCHEMA_NUMBER, DS_SCHEMA_##state, fallback, min, max, NULL, NULL }
#define STRING(path, state, fallback, choices)                                                     \
  { path, DS_SCHEMA_STRING, DS_SCHEMA_##state, fallback, 0, 0, choices, NULL }
#define SECTION(path)                                                                              \
  { path, DS_SCHEMA_SECTION, DS_SCHEMA_HERE, NULL, 0, 0, NULL, NULL }
#define OPTIONAL(path)                                                                             \
  { path, DS_SCHEMA_OPTIONAL, DS_SCHEMA_HERE, NULL, 0, 0, NULL, NULL }
#define OPEN(path, state)                                                                          \
  { path, DS_SCHEMA_OPEN, DS_SCHEMA_##state, NULL, 0, 0, NULL, NULL }
/* A checkpoint knows where its schedule was. */
#define LAST_ITERATION(path)                                                                       \
  {                                                                                                \
    path, DS_SCHEMA_INT, DS_SCHEMA_LATER, "-1", -1, 0x1p53, NULL,                                  \
        "a checkpoint brings the schedule's place; leave it -1"                                    \
  }
#define OTHER(path, type, state)                                                                   \
  { path, DS_SCHEMA_##type, DS_SCHEMA_##state, NULL, 0, 0, NULL, NULL }

static const ds_schema_key keys[] = {
    INT("train_batch_size", HERE, NULL, -0x1p53),
    INT("train_micro_batch_size_per_gpu", HERE, NULL, -0x1p53),
    INT("gradient_accumulation_steps", HERE, NULL, -0x1p53),
    NUMBER("gradient_clipping", HERE, "1.0", 0, INFINITY),
    INT("steps_per_print", HERE, NULL, 1),
    BOOL("wall_clock_breakdown", LATER, "false"),
    BOOL("memory_breakdown", LATER, "false"),
    BOOL("dump_state", LATER, "false"),
    BOOL("zero_allow_untested_optimizer", IDLE, "false"),
    BOOL("zero_force_ds_cpu_optimizer", IDLE, "true"),
    BOOL("prescale_gradients", LATER, "false"),
    NUMBER("gradient_predivide_factor", LATER, "1.0", 0, INFINITY),
    STRING("gradient_allreduce_op", HERE, "\"mean\"", "mean|sum"),
    STRING("communication_data_type", LATER, "\"fp32\"", "fp32|fp16|bf16"),
    STRING("seq_parallel_communication_data_type", IDLE, "\"fp32\"", "fp32|fp16|bf16"),
    STRING("seq_parallel_comm_data_type", IDLE, "\"fp32\"", "fp32|fp16|bf16"),
    INT("sequence_parallel_size", HERE, "1", 1),
    BOOL("managed_gradient_accumulation", LATER, "true"),
    BOOL("dataloader_drop_last", HERE, "false"),
    BOOL("disable_allgather", IDLE, "false"),
    INT("allgather_size", IDLE, "500000000", 0),
    BOOL("sparse_gradients", LATER, "false"),
    BOOL("graph_harvesting", LATER, "false"),
    BOOL("use_data_before_expert_parallelism", LATER, "false"),
    INT("vocabulary_size", IDLE, NULL, 1),
    STRING("log_level", IDLE, NULL, NULL),

    SECTION("data_types"),
    STRING("data_types.grad_accum_dtype", LATER, "\"fp32\"", "fp32|fp16|bf16"),
    STRING("data_types.param_dtype", LATER, NULL, NULL),
    STRING("data_types.buffer_dtype", LATER, NULL, NULL),

    /* params depend on type: see @adam and the schedules below */
    OPTIONAL("optimizer"),
    STRING("optimizer.type", HERE, NULL, NULL),
    OPEN("optimizer.params", HERE),
    BOOL("optimizer.legacy_fusion", LATER, "false"),
    OPTIONAL("scheduler"),
    STRING("scheduler.type", HERE, NULL, NULL),
    OPEN("scheduler.params", HERE),

    NUMBER("@adam.lr", HERE, "1e-3", 0, INFINITY),
    {"@adam.betas", DS_SCHEMA_BETAS, DS_SCHEMA_HERE, "[0.9,0.999]", 0, 0, NULL, NULL},
    NUMBER("@adam.eps", HERE, "1e-8", 0, INFINITY),
    NUMBER("@adam.weight_decay", HERE, "0", 0, INFINITY),
    BOOL("@adam.adam_w_mode", HERE, "true"),
    BOOL("@adam.torch_adam", IDLE, "false"),
    BOOL("@adam.bias_correction", LATER, "true"),
    BOOL("@adam.amsgrad", LATER, "false"),
    BOOL("@adam.fp32_optimizer_states", LATER, "true"),
    {"@adam.max_grad_norm", DS_SCHEMA_ANY, DS_SCHEMA_RARE, NULL, 0, 0, NULL,
     "clips nothing here; use gradient_clipping at the top level"},

    LAST_ITERATION("@warmup.last_batch_iteration"),
    NUMBER("@warmup.warmup_min_lr", HERE, "0", 0, INFINITY),
    NUMBER("@warmup.warmup_max_lr", HERE, NULL, 0, INFINITY),
    INT("@warmup.warmup_num_steps", HERE, "1000", 0),
    STRING("@warmup.warmup_type", HERE, "\"log\"", "log|linear"),

    LAST_ITERATION("@warmup_decay.last_batch_iteration"),
    INT("@warmup_decay.total_num_steps", HERE, NULL, 1),
    NUMBER("@warmup_decay.warmup_min_lr", HERE, "0", 0, INFINITY),
    NUMBER("@warmup_decay.warmup_max_lr", HERE, "1e-3", 0, INFINITY),
    INT("@warmup_decay.warmup_num_steps", HERE, "1000", 0),
    STRING("@warmup_decay.warmup_type", HERE, "\"log\"", "log|linear"),

    LAST_ITERATION("@warmup_cosine.last_batch_iteration"),
    INT("@warmup_cosine.total_num_steps", HERE, NULL, 1),
    NUMBER("@warmup_cosine.warmup_min_ratio", HERE, "0", 0, INFINITY),
    INT("@warmup_cosine.warmup_num_steps", HERE, "1000", 0),
    NUMBER("@warmup_cosine.cos_min_ratio", HERE, "1e-4", 0, INFINITY),
    STRING("@warmup_cosine.warmup_type", HERE, "\"log\"", "log|linear"),

    LAST_ITERATION("@range_test.last_batch_iteration"),
    NUMBER("@range_test.lr_range_test_min_lr", HERE, "1e-3", 0, INFINITY),
    INT("@range_test.lr_range_test_step_size", HERE, "2000", 1),
    NUMBER("@range_test.lr_range_test_step_rate", HERE, "1.0", 0, INFINITY),
    BOOL("@range_test.lr_range_test_staircase", HERE, "false"),

    LAST_ITERATION("@one_cycle.last_batch_iteration"),
    NUMBER("@one_cycle.cycle_min_lr", HERE, NULL, 0, INFINITY),
    NUMBER("@one_cycle.cycle_max_lr", HERE, NULL, 0, INFINITY),
    NUMBER("@one_cycle.decay_lr_rate", HERE, "0", 0, INFINITY),
    INT("@one_cycle.cycle_first_step_size", HERE, "2000", 1),
    INT("@one_cycle.cycle_second_step_size", HERE, NULL, 1),
    INT("@one_cycle.cycle_first_stair_count", HERE, "0", 0),
    INT("@one_cycle.cycle_second_stair_count", HERE, NULL, 0),
    INT("@one_cycle.decay_step_size", HERE, "0", 0),
    BOOL("@one_cycle.cycle_momentum", HERE, "true"),
    NUMBER("@one_cycle.cycle_min_mom", HERE, "0.8", 0, 0.999999999),
    NUMBER("@one_cycle.cycle_max_mom", HERE, "0.9", 0, 0.999999999),
    NUMBER("@one_cycle.decay_mom_rate", HERE, "0", 0, INFINITY),

    SECTION("fp16"),
    BOOL("fp16.enabled", HERE, "false"),
    BOOL("fp16.auto_cast", IDLE, "false"), /* inputs are always cast */
    NUMBER("fp16.loss_scale", HERE, "0", 0, DS_LOSS_SCALE_MAX),
    {"fp16.initial_scale_power", DS_SCHEMA_INT, DS_SCHEMA_HERE, "16", 0, 126, NULL, NULL},
    INT("fp16.loss_scale_window", HERE, "1000", 1),
    INT("fp16.hysteresis", HERE, "2", 1),
    BOOL("fp16.consecutive_hysteresis", HERE, "false"),
    NUMBER("fp16.min_loss_scale", HERE, "1", 0, DS_LOSS_SCALE_MAX),
    BOOL("fp16.fused_mode", IDLE, "true"),
    BOOL("fp16.fp16_master_weights_and_grads", LATER, "false"),

    SECTION("bf16"),
    BOOL("bf16.enabled", HERE, "false"),
    BOOL("bf16.check_grad_overflow", HERE, "true"),
    BOOL("bf16.immediate_grad_update", IDLE, "true"),
    BOOL("bf16.bf16_master_weights_and_grads", LATER, "false"),
    BOOL("bf16.bf16_optimizer_states", LATER, "false"),

    SECTION("zero_optimization"),
    {"zero_optimization.stage", DS_SCHEMA_INT, DS_SCHEMA_HERE, "0", 0, 3, NULL, NULL},
    BOOL("zero_optimization.contiguous_gradients", IDLE, "true"),
    BOOL("zero_optimization.reduce_scatter", HERE, "true"),
    INT("zero_optimization.reduce_bucket_size", HERE, "500000000", 0),
    BOOL("zero_optimization.use_multi_rank_bucket_allreduce", IDLE, "true"),
    BOOL("zero_optimization.allgather_partitions", HERE, "true"),
    INT("zero_optimization.allgather_bucket_size", HERE, "500000000", 0),
    BOOL("zero_optimization.overlap_comm", HERE, NULL),
    {"zero_optimization.load_from_fp32_weights", DS_SCHEMA_BOOL, DS_SCHEMA_LATER, "true", 0, 0,
     NULL,
     "a checkpoint's weights are f32, and what was trained in them would be lost; leave it true"},
    BOOL("zero_optimization.elastic_checkpoint", IDLE, "false"), /* every one is */
    SECTION("zero_optimization.offload_param"),
    STRING("zero_optimization.offload_param.device", HERE, "\"none\"", "none|cpu|nvme"),
    STRING("zero_optimization.offload_param.nvme_path", HERE, NULL, NULL),
    INT("zero_optimization.offload_param.buffer_count", HERE, "5", 0),
    INT("zero_optimization.offload_param.buffer_size", IDLE, "100000000", 0),
    INT("zero_optimization.offload_param.max_in_cpu", IDLE, "1000000000", 0),
    BOOL("zero_optimization.offload_param.pin_memory", HERE, "true"),
    NUMBER("zero_optimization.offload_param.ratio", LATER, "1.0", 0, 1),
    SECTION("zero_optimization.offload_optimizer"),
    STRING("zero_optimization.offload_optimizer.device", HERE, "\"none\"", "none|cpu|nvme"),
    STRING("zero_optimization.offload_optimizer.nvme_path", HERE, NULL, NULL),
    INT("zero_optimization.offload_optimizer.buffer_count", HERE, "4", 0),
    BOOL("zero_optimization.offload_optimizer.pin_memory", HERE, "true"),
    BOOL("zero_optimization.offload_optimizer.pipeline_read", HERE, "false"),
    BOOL("zero_optimization.offload_optimizer.pipeline_write", HERE, "false"),
    BOOL("zero_optimization.offload_optimizer.fast_init", IDLE, "false"),
    NUMBER("zero_optimization.offload_optimizer.ratio", LATER, "1.0", 0, 1),
    BOOL("zero_optimization.offload_optimizer.super_offload", LATER, "false"),
    BOOL("zero_optimization.offload_optimizer.convert_grad_on_cpu", IDLE, "true"),
    NUMBER("zero_optimization.offload_optimizer.cpuadam_cores_perc", IDLE, "0.8", 0, 1),
    BOOL("zero_optimization.cpu_offload", HERE, "false"),
    BOOL("zero_optimization.cpu_offload_param", HERE, "false"),
    BOOL("zero_optimization.cpu_offload_use_pin_memory", IDLE, "false"),
    OPEN("zero_optimization.zenflow", RARE),
    INT("zero_optimization.sub_group_size", HERE, "1000000000", 0),
    INT("zero_optimization.stage3_prefetch_bucket_size", HERE, "50000000", 0),
    INT("zero_optimization.stage3_param_persistence_threshold", HERE, "100000", 0),
    INT("zero_optimization.stage3_model_persistence_threshold", IDLE, NULL, 0),
    INT("zero_optimization.stage3_max_live_parameters", HERE, "1000000000", 0),
    INT("zero_optimization.stage3_max_reuse_distance", HERE, "1000000000", 0),
    /* ds_engine_save_model gathers nothing: ranks write their own pieces, at any stage */
    BOOL("zero_optimization.stage3_gather_16bit_weights_on_model_save", IDLE, "false"),
    BOOL("zero_optimization.stage3_gather_fp16_weights_on_model_save", IDLE, "false"),
    INT("zero_optimization.stage3_module_granularity_threshold", HERE, "0", 0),
    BOOL("zero_optimization.stage3_use_all_reduce_for_fetch_params", IDLE, "false"),
    BOOL("zero_optimization.stage3_allgather_sequential", IDLE, "false"),
    INT("zero_optimization.stage3_partition_stream_chunk_size", IDLE, "0", 0),
    BOOL("zero_optimization.ignore_unused_parameters", HERE, "true"),
    BOOL("zero_optimization.legacy_stage1", IDLE, "false"),
    BOOL("zero_optimization.round_robin_gradients", IDLE, "false"),
    INT("zero_optimization.zero_hpz_partition_size", HERE, "1", 0),
    BOOL("zero_optimization.zero_quantized_weights", HERE, "false"),
    BOOL("zero_optimization.zero_quantized_nontrainable_weights", LATER, "false"),
    BOOL("zero_optimization.zero_quantized_gradients", HERE, "false"),
    OPEN("zero_optimization.zeropp_loco_param", LATER),
    INT("zero_optimization.mics_shard_size", LATER, "-1", -1),
    BOOL("zero_optimization.mics_hierarchical_params_gather", LATER, "false"),
    BOOL("zero_optimization.memory_efficient_linear", IDLE, "true"),
    /* ranks read their own pieces, a block at a time: there is no whole model to take apart */
    BOOL("zero_optimization.pipeline_loading_checkpoint", IDLE, "false"),
    BOOL("zero_optimization.override_module_apply", IDLE, "true"),
    BOOL("zero_optimization.log_trace_cache_warnings", IDLE, "false"),
    BOOL("zero_optimization.enable_sanity_checks", IDLE, "false"),
    BOOL("zero_optimization.save_muon_momentum_buffer_in_memory", IDLE, "false"),
    OPEN("zero_optimization.leaf_module", LATER),

    SECTION("activation_checkpointing"),
    BOOL("activation_checkpointing.partition_activations", LATER, "false"),
    BOOL("activation_checkpointing.cpu_checkpointing", LATER, "false"),
    BOOL("activation_checkpointing.contiguous_memory_optimization", LATER, "false"),
    BOOL("activation_checkpointing.synchronize_checkpoint_boundary", LATER, "false"),
    BOOL("activation_checkpointing.profile", LATER, "false"),
    INT("activation_checkpointing.number_checkpoints", LATER, NULL, 1),

    SECTION("flops_profiler"),
    BOOL("flops_profiler.enabled", LATER, "false"),
    INT("flops_profiler.profile_step", IDLE, "1", 0),
    INT("flops_profiler.module_depth", IDLE, "-1", -1),
    INT("flops_profiler.top_modules", IDLE, "1", 0),
    BOOL("flops_profiler.detailed", IDLE, "true"),
    STRING("flops_profiler.output_file", IDLE, NULL, NULL),
    NUMBER("flops_profiler.recompute_fwd_factor", IDLE, "0", 0, INFINITY),

    SECTION("comms_logger"),
    BOOL("comms_logger.enabled", HERE, "false"),
    BOOL("comms_logger.verbose", HERE, "false"),
    BOOL("comms_logger.prof_all", HERE, "true"),
    BOOL("comms_logger.debug", HERE, "false"),
    OTHER("comms_logger.prof_ops", LIST, HERE),

    SECTION("tensorboard"),
    BOOL("tensorboard.enabled", LATER, "false"),
    STRING("tensorboard.output_path", IDLE, "\"\"", NULL),
    STRING("tensorboard.job_name", IDLE, NULL, NULL),
    SECTION("csv_monitor"),
    BOOL("csv_monitor.enabled", LATER, "false"),
    STRING("csv_monitor.output_path", IDLE, "\"\"", NULL),
    STRING("csv_monitor.job_name", IDLE, NULL, NULL),
    OPEN("wandb", RARE),
    OPEN("comet", RARE),
    OPEN("trackio", RARE),

    SECTION("checkpoint"),
    STRING("checkpoint.tag_validation", HERE, "\"WARN\"", "WARN|IGNORE|FAIL"),
    /* every checkpoint is universal, and every rank writes */
    BOOL("checkpoint.load_universal", IDLE, "false"),
    {"checkpoint.use_node_local_storage", DS_SCHEMA_BOOL, DS_SCHEMA_LATER, "false", 0, 0, NULL,
     "a checkpoint is one folder that all ranks write: give one on a file system that all hosts "
     "share; copies on each host can be loaded without this key"},
    SECTION("checkpoint.parallel_write"),
    BOOL("checkpoint.parallel_write.pipeline_stage", IDLE, "false"),
    OPEN("checkpoint.writer", LATER),

    SECTION("tensor_parallel"),
    BOOL("tensor_parallel.enabled", HERE, "true"),
    INT("tensor_parallel.autotp_size", HERE, "0", 0),
    INT("tensor_parallel.tp_size", HERE, "1", 1),
    BOOL("tensor_parallel.sequence_parallel", HERE, "false"), /* dscore's own */
    SECTION("tensor_parallel.tp"),
    INT("tensor_parallel.tp.tp_size", HERE, "1", 1),
    BOOL("tensor_parallel.tp_overlap_comm", HERE, "false"),
    SECTION("elasticity"),
    BOOL("elasticity.enabled", HERE, "false"),
    INT("elasticity.max_train_batch_size", HERE, NULL, 1),
    OTHER("elasticity.micro_batch_sizes", LIST, HERE),
    INT("elasticity.min_gpus", HERE, "1", 1),
    INT("elasticity.max_gpus", HERE, "10000", 1),
    INT("elasticity.min_time", IDLE, "0", 0),
    NUMBER("elasticity.version", HERE, "0.2", 0, INFINITY),
    BOOL("elasticity.ignore_non_elastic_batch_info", HERE, "false"),
    BOOL("elasticity.prefer_larger_batch", HERE, "true"),
    INT("elasticity.num_gpus_per_node", HERE, "1", 1),
    INT("elasticity.model_parallel_size", HERE, "1", 1),
    SECTION("aio"),
    INT("aio.block_size", IDLE, "1048576", 1),
    INT("aio.queue_depth", IDLE, "8", 1),
    INT("aio.thread_count", IDLE, "1", 1),
    INT("aio.intra_op_parallelism", IDLE, "1", 1),
    BOOL("aio.single_submit", IDLE, "false"),
    BOOL("aio.overlap_events", IDLE, "true"),
    BOOL("aio.use_gds", IDLE, "false"),
    SECTION("torch_autocast"),
    BOOL("torch_autocast.enabled", LATER, "false"),
    STRING("torch_autocast.dtype", IDLE, NULL, NULL),
    OTHER("torch_autocast.lower_precision_safe_modules", LIST, IDLE),
    SECTION("pipeline"),
    INT("pipeline.stages", HERE, "1", 1),
    STRING("pipeline.partition", HERE, "\"best\"", "best|parameters|uniform"),
    /* Initial weights depend on seed and name alone, so that it is always as this asks. */
    BOOL("pipeline.seed_layers", IDLE, "false"),
    INT("pipeline.activation_checkpoint_interval", LATER, "0", 0),
    /* Of messages over tensor-parallel ranks: the numbers are the same. */
    BOOL("pipeline.pipe_partitioned", IDLE, "true"),
    BOOL("pipeline.grad_partitioned", IDLE, "true"),
    OPEN("expert_parallel", LATER),

    OPEN("hybrid_engine", RARE),
    OPEN("compression_training", RARE),
    OPEN("data_efficiency", RARE),
    OPEN("curriculum_learning", RARE),
    OPEN("progressive_layer_drop", RARE),
    OPEN("autotuning", RARE),
    OPEN("sparse_attention", RARE),
    OPEN("amp", RARE),
    OPEN("nebula", RARE),
    OPEN("datastates_ckpt", RARE),
    OPEN("eigenvalue", RARE),
    OPEN("quantize_training", RARE),
    OPEN("weight_quantization", RARE),
    OPEN("compile", RARE),
    OPEN("timers", RARE),

    /* dscore's own; read by the backend layer */
    OTHER("backend", ANY, HERE),
};

static const ds_schema schema = {keys, sizeof keys / sizeof keys[0]};

const ds_schema *ds_config_keys(void) {
  return &schema;
}
