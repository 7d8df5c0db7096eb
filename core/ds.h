/* ds.h - dscore's public API.
 *
 * Two engines: ds_initialize() gives one that trains, ds_init_inference() one that generates.
 * Models are code over the ops declared here; the built-in GPT-2 and LLaMA families use nothing
 * else. Hardware is reached only through backend plugins (ds_abi.h), chosen by the config's
 * "backend" section.
 *
 * Conventions
 *   Errors     Functions that can fail return a ds_status and fill the caller's ds_error (may be
 *              NULL). The library never prints, exits or aborts. On failure out-pointers are set to
 *              NULL.
 *   Ownership  X_create / X_open / X_load hand the caller an object to X_destroy / X_close.
 *              Destructors take NULL. Strings passed in are copied. Objects passed in stay the
 *              caller's and must outlive their use, except where "takes" is said.
 *   Structs    Public structs begin with `size`; set them up with their _INIT macro, which also
 *              gives the defaults.
 *   Threads    An object may be used from one thread at a time; different objects from different
 *              threads. Two engines in one process share nothing.
 *   Shapes     B batch, T time (sequence length), C channels, H heads, G key/value heads, D head
 *              dimension, V vocabulary, F hidden width, L layers, N any number of elements.
 *   Children   A plugin is tried in a forked child before it is loaded for the first time, so that
 *              its crash isn't the host's: a SIGCHLD handler sees that child end, and forking takes
 *              the longer the more memory the host has touched. "probe_timeout": 0 in the config's
 *              "backend" does without.
 */
#ifndef DS_H
#define DS_H

#include "ds_abi.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DS_API DS_EXPORT

/* "0.1.0" */
DS_API const char *ds_version(void);
/* A few words for a status: "out of memory". Static. */
DS_API const char *ds_status_string(ds_status status);

/* Where messages go. NULL = nowhere. May be called from any thread. */
typedef void (*ds_log_fn)(void *ctx, ds_log_level level, const char *message);

/* ================================================================ computing: contexts, values, ops
 */

typedef struct ds_ctx ds_ctx; /* where ops run: a backend, scratch memory, and in training a tape */
typedef struct ds_value
    ds_value; /* a tensor in a computation; belongs to its context until the step ends */

/* Ops run when they are called and return their result, or NULL after a failure. A NULL argument
 * makes an op return NULL at once, so a model can be written straight down and the status asked
 * once, at the end: the first failure stays in the context. */
DS_API ds_status ds_ctx_status(const ds_ctx *ctx, ds_error *err);
/* Records a failure (unless there is one already); for a model's own checks. Returns NULL, so that
 * a forward function can `return ds_ctx_fail(...)`. */
DS_API ds_value *ds_ctx_fail(ds_ctx *ctx, ds_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The dtype activations are computed in: DS_F32, DS_BF16 or DS_F16. */
DS_API int32_t ds_ctx_dtype(const ds_ctx *ctx);
/* Whether gradients will be asked for. */
DS_API bool ds_ctx_training(const ds_ctx *ctx);

/* Shape and dtype; data is a device address. At ZeRO stage 3 a parameter's, or that of a view of one,
 * is only right within an op: read it with ds_value_read. */
DS_API const ds_tensor *ds_value_tensor(const ds_value *v);
/* Copies the elements to host memory, converted to f32 (integers too); n must be the number of
 * elements. Waits. Of a parameter at ZeRO stage 3 every rank calls it. */
DS_API ds_status ds_value_read(ds_ctx *ctx, const ds_value *v, float *out, size_t n, ds_error *err);
/* A new value from host data: contiguous, of dtype DS_F32, DS_BF16 or DS_F16
 * (both from f32 data), or DS_I32. */
DS_API ds_value *ds_input(ds_ctx *ctx, int32_t dtype, int32_t rank, const int64_t *shape,
                          const void *host);
/* i32[batch,length]: 0, 1, ..., length-1 in every row; under sequence parallelism, from the first
 * position of this rank's stretch on. */
DS_API ds_value *ds_positions(ds_ctx *ctx, int64_t batch, int64_t length);
/* The model's parameter `index`, as ds_params_add() numbered it, in the compute dtype; under tensor
 * parallelism this rank's part of it. At ZeRO stage 3 it is there only while an op, or ds_value_read,
 * uses it or a view of it: don't keep its address. */
DS_API ds_value *ds_param(ds_ctx *ctx, int index);

/* y[...,N] = x[...,K] . w[N,K]^T + b[N]; b may be NULL. */
DS_API ds_value *ds_linear(ds_ctx *ctx, ds_value *x, ds_value *w, ds_value *b);
/* As ds_linear, then the activation (GEMM epilogue where no gradient is needed). */
DS_API ds_value *ds_linear_activation(ds_ctx *ctx, ds_value *x, ds_value *w, ds_value *b,
                                      ds_activation kind);
/* ids i32[...] -> [...,C]; table [V,C]. An id outside [0,V) is an error. */
DS_API ds_value *ds_embedding(ds_ctx *ctx, ds_value *ids, ds_value *table);
DS_API ds_value *ds_layer_norm(ds_ctx *ctx, ds_value *x, ds_value *weight, ds_value *bias,
                               double eps);
DS_API ds_value *ds_rms_norm(ds_ctx *ctx, ds_value *x, ds_value *weight, double eps);
DS_API ds_value *ds_activate(ds_ctx *ctx, ds_value *x, ds_activation kind);
/* silu(gate) * up */
DS_API ds_value *ds_swiglu(ds_ctx *ctx, ds_value *gate, ds_value *up);
/* Rotary positions (Su et al. 2021) on x [B,T,H,D]; pos i32[B,T]; inv_freq f32[P], 2P <= D. */
DS_API ds_value *ds_rope(ds_ctx *ctx, ds_value *x, ds_value *pos, ds_value *inv_freq,
                         bool interleaved);
/* Softmax attention. q [B,T,H,D], k and v [B,S,G,D], G divides H. kv_len i32[B] or NULL: keys in
 * use; query t then stands at position kv_len-T+t. scale 0 = 1/sqrt(D). window: how many keys back
 * a query sees, 0 = all. */
DS_API ds_value *ds_attention(ds_ctx *ctx, ds_value *q, ds_value *k, ds_value *v, ds_value *kv_len,
                              bool causal, double scale, int64_t window);
/* Mean negative log-likelihood of targets i32[R] under logits [R,V]; rows with target `ignore`
 * don't count. f32[1]. */
DS_API ds_value *ds_cross_entropy(ds_ctx *ctx, ds_value *logits, ds_value *targets, int64_t ignore);
DS_API ds_value *ds_add(ds_ctx *ctx, ds_value *a, ds_value *b); /* same shape */
DS_API ds_value *ds_mul(ds_ctx *ctx, ds_value *a, ds_value *b); /* same shape */
DS_API ds_value *ds_scale(ds_ctx *ctx, ds_value *x, double factor);
DS_API ds_value *ds_mean(ds_ctx *ctx, ds_value *x); /* f32[1] */
/* Same elements, other shape. No copy. */
DS_API ds_value *ds_reshape(ds_ctx *ctx, ds_value *x, int32_t rank, const int64_t *shape);
/* x[..., from:from+count] along the last dimension. No copy: rows are strided. */
DS_API ds_value *ds_slice_last(ds_ctx *ctx, ds_value *x, int64_t from, int64_t count);
/* Rows of x [R,C] by ids i32[K]. No gradient: an error while training. */
DS_API ds_value *ds_gather_rows(ds_ctx *ctx, ds_value *x, ds_value *ids);

/* Between begin and end (nested like brackets), values made are dropped at the end except `keep`,
 * when no gradient is needed; in training it does nothing. Bounds the scratch of long inputs: put
 * one around each block. */
DS_API void ds_scope_begin(ds_ctx *ctx);
DS_API ds_value *ds_scope_end(ds_ctx *ctx, ds_value *keep);

/* ================================================================ models */

typedef enum ds_init {
  DS_INIT_ZEROS = 0,
  DS_INIT_ONES = 1,
  DS_INIT_NORMAL = 2,
  DS_INIT_UNIFORM = 3
} ds_init;

typedef struct ds_params ds_params; /* a model's parameter declarations */

/* Declares a parameter; returns its index (0, 1, ...) or -1 (the failure stays in params and stops
 * ds_initialize). name must be unique: it is the key in checkpoints. scale: standard deviation of
 * NORMAL, half width of UNIFORM. */
DS_API int ds_params_add(ds_params *params, const char *name, int32_t rank, const int64_t *shape,
                         ds_init init, double scale);
/* Weight files store this matrix transposed, [K,N] for [N,K] (GPT-2's Conv1D). For loading and
 * saving only: the parameter keeps its shape. */
DS_API void ds_params_set_transposed(ds_params *params, int index);
/* How tensor parallelism divides a parameter over ranks. A column-parallel matrix [N,K] is divided
 * by N, and what a linear makes of it is a part of the columns; a row-parallel one is divided by K,
 * takes such a part, and its products are summed over the ranks. */
typedef enum ds_split {
  DS_SPLIT_NONE = 0,   /* every rank has all of it */
  DS_SPLIT_COLUMN = 1, /* [N,K] by N, and its bias [N] with it */
  DS_SPLIT_ROW = 2,    /* [N,K] by K */
  DS_SPLIT_VOCAB = 3   /* [V,C] by V: an embedding's table, a language model's head */
} ds_split;
/* Into which pieces the divided dimension may be cut. */
typedef enum ds_split_by {
  DS_SPLIT_BY_ELEMENT = 0,
  DS_SPLIT_BY_QUERY_HEAD = 1,
  DS_SPLIT_BY_KV_HEAD = 2,
  DS_SPLIT_BY_QKV = 3 /* all query heads, then all key heads, then all value heads */
} ds_split_by;
/* The model's attention: G of n_kv_heads divides H of n_heads, head_dim is D. Tensor parallelism
 * divides attention by heads, and is refused where it isn't told. A forward that takes its head
 * counts from the shapes of values (width / head_dim) works for any number of ranks. */
DS_API void ds_params_set_heads(ds_params *params, int64_t n_heads, int64_t n_kv_heads,
                                int64_t head_dim);
/* For what the names of parameters don't tell (DeepSpeed's AutoTP: o_proj, down_proj, c_proj and
 * their like are row-parallel, embeddings and heads by vocabulary, other matrices
 * column-parallel). */
DS_API void ds_params_set_split(ds_params *params, int index, ds_split split, ds_split_by by);
DS_API int ds_params_count(const ds_params *params);
DS_API const char *ds_params_name(const ds_params *params, int index);
/* rank and shape (up to DS_MAX_RANK) of a parameter. */
DS_API int32_t ds_params_shape(const ds_params *params, int index, int64_t *shape);

/* Keys and values of earlier tokens, one per generation. A model's decode() appends and gets back
 * all. */
typedef struct ds_kv_cache ds_kv_cache;
/* Appends k, v [B,T,G,D] of `layer` behind the cache's length; all_k, all_v [B,S,G,D] then hold
 * everything, of which ds_kv_cache_lengths() are in use. The length advances by T when the whole
 * decode is done. */
DS_API ds_status ds_kv_cache_append(ds_kv_cache *cache, ds_ctx *ctx, int layer, ds_value *k,
                                    ds_value *v, ds_value **all_k, ds_value **all_v);
DS_API int64_t ds_kv_cache_length(const ds_kv_cache *cache); /* tokens before this decode */
DS_API ds_value *ds_kv_cache_lengths(ds_kv_cache *cache,
                                     ds_ctx *ctx); /* i32[B]: keys in use with this decode's */
DS_API ds_value *ds_kv_cache_positions(ds_kv_cache *cache,
                                       ds_ctx *ctx); /* i32[B,T]: of this decode's tokens */

/* What an inference engine needs to know to generate text. */
typedef struct ds_model_info {
  uint32_t size;
  int32_t n_layers, n_kv_heads, head_dim;
  int64_t vocab_size, max_positions;
  int32_t bos_token, eos_token; /* -1 = none */
} ds_model_info;

struct ds_batch; /* below */
enum { DS_PARAM_BLOCKS = 2 };

typedef struct ds_model_vtable {
  uint32_t size; /* sizeof(ds_model_vtable) */
  const char *name;
  /* Declares the parameters, in a fixed order. */
  ds_status (*declare)(void *self, ds_params *params, ds_error *err);
  /* Training: the batch's tensors in the collate function's order -> the loss f32[1]. f32 tensors
   * arrive in the compute dtype. Language models: inputs[0] ids i32[B,T], inputs[1] labels i32[B,T]
   * (-100 = don't count); without labels
   * -> logits [B,T,V]. */
  ds_value *(*forward)(void *self, ds_ctx *ctx, ds_value *const *inputs, int n_inputs);
  /* The rest is for text generation; NULL in other models. decode: ids i32[B,T] -> logits [B,V] of
   * the last position of each row. */
  ds_status (*info)(void *self, ds_model_info *out, ds_error *err);
  ds_value *(*decode)(void *self, ds_ctx *ctx, ds_value *ids, ds_kv_cache *cache);
  /* The Hugging Face config.json of the model as new text (free()), so that a checkpoint can be
   * loaded anywhere. */
  char *(*config_json)(void *self);
  void (*destroy)(void *self); /* may be NULL */

  /* Pipeline parallelism; all four, or NULL in a model that can't be split. The model is a row of
   * blocks 0, 1, ..., n-1; what comes before the first one (embeddings) counts as of it, what comes
   * after the last one (norm, head, loss) as of that. A stage runs some neighbouring blocks, and
   * hands the hidden values between them to the next. */
  int (*n_blocks)(void *self); /* at least 1 */
  /* The blocks that use a parameter, into blocks; returns how many. Two: it is tied, and where the
   * two are in different stages both have it and its gradients are added. */
  int (*param_blocks)(void *self, int index, int blocks[DS_PARAM_BLOCKS]);
  /* Shape of the hidden values for this batch, the same between all blocks; they are of the compute
   * dtype. A batch that doesn't fit the model is an error here already. */
  ds_status (*hidden_shape)(void *self, const struct ds_batch *batch, int32_t *rank, int64_t *shape,
                            ds_error *err);
  /* Blocks [first,last) on the hidden values (NULL where first is 0: they come from inputs) ->
   * hidden values, contiguous; where last is n what forward returns. Only parameters that
   * param_blocks says of these blocks are there. */
  ds_value *(*forward_blocks)(void *self, ds_ctx *ctx, int first, int last, ds_value *hidden,
                              ds_value *const *inputs, int n_inputs);
} ds_model_vtable;

typedef struct ds_model ds_model;

/* A model of the host app's own. vtable must stay valid; self is handed to each function. */
DS_API ds_status ds_model_create(const ds_model_vtable *vtable, void *self, ds_model **out,
                                 ds_error *err);
/* A built-in family (model_type gpt2 or llama) from a Hugging Face folder, or, without weights,
 * from a config.json alone. A folder's weights come from its model.safetensors (or the shards that
 * model.safetensors.index.json names) where it has them, and must be exactly the model's. Config
 * keys that would change the mathematics in a way that isn't implemented are refused by name; those
 * of dropout are read past: none is applied. */
DS_API ds_status ds_model_load(const char *path, ds_model **out, ds_error *err);
/* As ds_model_load, from the config's text alone. */
DS_API ds_status ds_model_from_config(const char *config_json, ds_model **out, ds_error *err);
DS_API void ds_model_destroy(ds_model *model);
/* "gpt2", "llama", or the vtable's name. */
DS_API const char *ds_model_name(const ds_model *model);
/* Fails with UNSUPPORTED for a model without text generation. */
DS_API ds_status ds_model_get_info(ds_model *model, ds_model_info *out, ds_error *err);

/* ================================================================ tokenizers */

typedef struct ds_tokenizer ds_tokenizer;

/* From a folder (tokenizer.json, else vocab.json + merges.txt) or one of these files. */
DS_API ds_status ds_tokenizer_load(const char *path, ds_tokenizer **out, ds_error *err);
/* 256 ids, one per byte. */
DS_API ds_status ds_tokenizer_bytes(ds_tokenizer **out, ds_error *err);
DS_API void ds_tokenizer_destroy(ds_tokenizer *t);
DS_API int32_t ds_tokenizer_vocab_size(const ds_tokenizer *t); /* largest id + 1 */
/* UTF-8 (any bytes) to new ids (free()). Any number of threads at once. special: names of special
 * tokens in the text become their ids, and the post-processor's template (BOS) is applied; a
 * tokenizer of LLaMA's kind (byte fallback) without a template begins with BOS unless
 * tokenizer_config.json says "add_bos_token": false. */
DS_API ds_status ds_tokenizer_encode(const ds_tokenizer *t, const char *text, size_t length,
                                     bool special, int32_t **ids, size_t *count, ds_error *err);
/* New bytes (free()), NUL-terminated besides. Special tokens are left out unless `special`.
 * Decoding is byte-exact: a token may end amid a UTF-8 character. An id outside the vocabulary is
 * an error. */
DS_API ds_status ds_tokenizer_decode(const ds_tokenizer *t, const int32_t *ids, size_t count,
                                     bool special, char **text, size_t *length, ds_error *err);
/* -1 when the tokenizer has none. */
DS_API int32_t ds_tokenizer_bos(const ds_tokenizer *t);
DS_API int32_t ds_tokenizer_eos(const ds_tokenizer *t);
/* Writes the files it was loaded from into a folder (nothing for bytes). */
DS_API ds_status ds_tokenizer_save(const ds_tokenizer *t, const char *folder, ds_error *err);

/* ================================================================ data */

/* One tensor of a sample or a batch, in host memory. */
typedef struct ds_host_tensor {
  int32_t dtype; /* DS_I32 or DS_F32 */
  int32_t rank;
  int64_t shape[DS_MAX_RANK];
  void *data; /* contiguous */
} ds_host_tensor;

#define DS_MAX_BATCH_TENSORS 8

typedef struct ds_batch {
  int n;
  ds_host_tensor tensors[DS_MAX_BATCH_TENSORS];
} ds_batch;

/* Map-style: length and get. Iterable: next (DS_ERR_END at the end) and rewind, with length NULL;
 * it is not shuffled. */
typedef struct ds_dataset_vtable {
  uint32_t size;
  int64_t (*length)(void *self);
  /* Fills sample; its data stays valid until the next get or next. */
  ds_status (*get)(void *self, int64_t index, ds_batch *sample, ds_error *err);
  ds_status (*next)(void *self, ds_batch *sample, ds_error *err);
  ds_status (*rewind)(void *self, ds_error *err);
  void (*destroy)(void *self); /* may be NULL */
} ds_dataset_vtable;

typedef struct ds_dataset ds_dataset;

DS_API ds_status ds_dataset_create(const ds_dataset_vtable *vtable, void *self, ds_dataset **out,
                                   ds_error *err);
/* Next-token prediction over text files: sample i is ids [T] and labels [T] (ids shifted by one)
 * from tokens i*T .. i*T+T. Files are tokenized one after the other. vocab_size > 0: an id beyond
 * it is an error. Less than one sample: an error that says how much text there is. */
DS_API ds_status ds_dataset_text(const char *const *paths, int n_paths, const ds_tokenizer *t,
                                 int64_t seq_len, int64_t vocab_size, ds_dataset **out,
                                 ds_error *err);
/* The same over ids in memory (copied). */
DS_API ds_status ds_dataset_tokens(const int32_t *ids, size_t count, int64_t seq_len,
                                   int64_t vocab_size, ds_dataset **out, ds_error *err);
DS_API void ds_dataset_destroy(ds_dataset *d);
DS_API int64_t ds_dataset_length(const ds_dataset *d); /* -1: iterable */

/* samples[0..n-1] -> batch; the default stacks each tensor along a new first dimension. The batch's
 * data must stay valid until the next call; allocate it in the callback's own state. */
typedef ds_status (*ds_collate_fn)(void *ctx, const ds_batch *samples, int n, ds_batch *batch,
                                   ds_error *err);

/* Batches of micro-batch size for this rank: shuffled by (seed, epoch), split over the
 * data-parallel ranks. */
typedef struct ds_dataloader ds_dataloader;
/* The next micro batch; goes on into the next epoch by itself. The data stays valid until the next
 * call. */
DS_API ds_status ds_dataloader_next(ds_dataloader *l, ds_batch *batch, ds_error *err);
DS_API int64_t ds_dataloader_epoch(const ds_dataloader *l);
DS_API int64_t ds_dataloader_length(const ds_dataloader *l); /* batches an epoch; -1 unknown */

/* ================================================================ optimizers and schedules */

/* A group of parameters with options of its own. Overrides < 0 (NAN for lr) mean: as the
 * optimizer's default. */
typedef struct ds_param_group {
  uint32_t size;
  const int *indices; /* of the model's parameters */
  int n_indices;
  double lr, beta1, beta2, eps, weight_decay;
} ds_param_group;
#define DS_PARAM_GROUP_INIT                                                                        \
  { sizeof(ds_param_group), NULL, 0, -1, -1, -1, -1, -1 }

/* A run of flat, contiguous f32 elements that one optimizer call updates; addresses of the device, or
 * of the host where states are offloaded. At ZeRO stages 1 to 3 a rank updates its own part alone, and
 * a run may begin and end amid a parameter: update elements, not matrices. */
typedef struct ds_optimizer_slice {
  float *param;      /* master weights */
  const float *grad; /* multiply by grad_scale first (clipping, accumulation) */
  void *param16;     /* bf16 copy to write, or NULL (in fp16 the engine writes it) */
  float *state[4];   /* as many as the optimizer asked for, zeroed before the first step */
  int64_t count;
  int group; /* which parameter group */
} ds_optimizer_slice;

typedef struct ds_optimizer ds_optimizer;

typedef struct ds_optimizer_vtable {
  uint32_t size;
  const char *name;
  int n_states; /* f32 state buffers per parameter, at most 4 */
  const char *const *state_names;
  /* One slice of one step; step counts from 1. lr is the schedule's value for the group. Work
   * through ctx: slices are device memory (ds_slice_update() gives access from the host). */
  ds_status (*update)(void *self, ds_ctx *ctx, const ds_optimizer_slice *slice, double lr,
                      double grad_scale, int64_t step, ds_error *err);
  void (*destroy)(void *self); /* may be NULL */
} ds_optimizer_vtable;

/* An optimizer of the host app's own. */
DS_API ds_status ds_optimizer_create(const ds_optimizer_vtable *vtable, void *self, double lr,
                                     ds_optimizer **out, ds_error *err);
/* AdamW (decoupled) or Adam with L2. */
DS_API ds_status ds_optimizer_adam(double lr, double beta1, double beta2, double eps,
                                   double weight_decay, bool decoupled, ds_optimizer **out,
                                   ds_error *err);
DS_API void ds_optimizer_destroy(ds_optimizer *o);
DS_API int ds_optimizer_groups(const ds_optimizer *o);
DS_API double ds_optimizer_lr(const ds_optimizer *o, int group);
DS_API void ds_optimizer_set_lr(ds_optimizer *o, int group, double lr);
/* For host-written optimizers: runs fn over the slice's elements in host memory, downloading and
 * uploading where the device's memory is not accessible. fn sees param, grad and state as host
 * pointers. */
DS_API ds_status ds_slice_update(ds_ctx *ctx, const ds_optimizer_slice *slice,
                                 void (*fn)(void *arg, float *param, const float *grad,
                                            float *const *state, int64_t count),
                                 void *arg, ds_error *err);
typedef ds_status (*ds_optimizer_fn)(void *ctx, const ds_params *params, ds_optimizer **out,
                                     ds_error *err);

/* A learning-rate schedule: after update i (i = 0, 1, ...) of the optimizer, step() sets the rate
 * for update i+1. */
typedef struct ds_lr_scheduler ds_lr_scheduler;
typedef struct ds_lr_scheduler_vtable {
  uint32_t size;
  const char *name;
  double (*lr)(void *self, int64_t update,
               double base_lr); /* for optimizer update `update`, counted from 0 */
  void (*destroy)(void *self);  /* may be NULL */
} ds_lr_scheduler_vtable;
DS_API ds_status ds_lr_scheduler_create(const ds_lr_scheduler_vtable *vtable, void *self,
                                        ds_lr_scheduler **out, ds_error *err);
DS_API void ds_lr_scheduler_destroy(ds_lr_scheduler *s);
typedef ds_status (*ds_lr_scheduler_fn)(void *ctx, const ds_optimizer *o, ds_lr_scheduler **out,
                                        ds_error *err);

/* ================================================================ the training engine */

typedef struct ds_engine ds_engine;

/* When the device fails. Work runs late, so that a failure may be told by a later call than the one
 * that gave the work; the message names plugin, device, stream, the call that told it, and the work
 * as the plugin names it: "name:0, stream 0: download: attention: ...".
 *
 *   - A failure that changed nothing (no memory, a batch that is wrong, a disk that is full) leaves
 *     the engine as it was. Where backward, step or train_batch failed, gradients of the step under
 *     way are dropped, and it begins again; a forward that failed may simply be called again.
 *   - Work that failed late, or a failure amid an update, leaves parameters undefined: they may be
 *     half updated. The message says so, and from then on what would use, read or save them fails
 *     with DS_ERR_STATE, naming the first failure, its step and the last checkpoint. Checkpoints
 *     on disk are whole. ds_engine_load_checkpoint() makes the engine sound again, on a new
 *     stream, and training goes on bit for bit as from any checkpoint.
 *   - On a lost device every call fails and says so, loading too. ds_engine_destroy() works.
 *
 * With several ranks one that fails like this, is killed or stopped, or is cut off, leaves the others
 * waiting: within the config's "backend": {"comm_timeout": seconds} (half an hour; or DEEPSPEED_TIMEOUT
 * in minutes) they fail too, with DS_ERR_TIMEOUT and a message that names the collective, the step,
 * who is missing where the backend can tell, and how long it waited. Nothing is left to do with such an
 * engine but to destroy it: all ranks are to be started anew, from the last checkpoint. */

/* What deepspeed's launcher leaves in args. */
typedef struct ds_args {
  uint32_t size;
  int local_rank; /* -1 = not given; must agree with LOCAL_RANK */
  const char *deepspeed_config;
  const char *deepscale_config; /* the deprecated name */
} ds_args;
#define DS_ARGS_INIT                                                                               \
  { sizeof(ds_args), -1, NULL, NULL }

/* Model-parallel groups that the host app made. They must be those of the config: tensor-parallel ranks
 * are neighbours, pipeline stages furthest apart (Megatron's order), and model_parallel is both. */
typedef struct ds_mpu {
  uint32_t size;
  void *ctx;
  ds_status (*data_parallel)(void *ctx, int *rank, int *world_size, ds_error *err);
  ds_status (*model_parallel)(void *ctx, int *rank, int *world_size, ds_error *err);
} ds_mpu;

typedef struct ds_initialize_args {
  uint32_t size;
  const ds_args *args;
  ds_model *model;              /* required */
  ds_optimizer *optimizer;      /* an instance; the caller's */
  ds_optimizer_fn optimizer_fn; /* or a callable; beats the config's either way */
  void *optimizer_ctx;
  const ds_param_group *model_parameters; /* NULL = all in one group */
  int n_model_parameters;
  ds_dataset *training_data; /* the caller's */
  ds_lr_scheduler *lr_scheduler;
  ds_lr_scheduler_fn lr_scheduler_fn;
  void *lr_scheduler_ctx;
  int distributed_port; /* where ranks meet, if the backend needs it, at MASTER_ADDR: -1 = not given
                           (MASTER_PORT, else 29500); 0 = any free port, for ranks that mpirun, srun or
                           torchrun started */
  const ds_mpu *mpu;
  int dist_init_required; /* -1 = initialize if needed; 0 = must be initialized: the host runs MPI, or
                             gives an mpu; 1 = initialize or nothing to do */
  ds_collate_fn collate_fn;
  void *collate_ctx;
  const char *config;        /* a path or JSON text */
  const char *config_params; /* the old name; config wins */
  uint64_t seed;             /* of weights and shuffling */
  ds_log_fn log;
  void *log_ctx;
} ds_initialize_args;
#define DS_INITIALIZE_ARGS_INIT                                                                    \
  {                                                                                                \
    sizeof(ds_initialize_args), NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, -1, \
        NULL, -1, NULL, NULL, NULL, NULL, 42, NULL, NULL                                           \
  }

/* Several ranks.
 *
 * All ranks call ds_initialize() with the same model, config, groups and seed (what differs is told,
 * by all), and then the same functions in the same order: each of ds_engine_forward, _backward, _step,
 * _train_batch, _zero_grad, _train, _set_train_batch_size, _read_param, _write_param, _read_grad,
 * _save_checkpoint, _load_checkpoint, _save_model and _save_trace may wait for the other ranks, for
 * evaluation too (at stage 3 a forward gathers parameters). A rank that calls one alone waits for
 * comm_timeout, see above, so that "if (rank == 0)" may stand around what is printed, not around
 * these. ds_engine_destroy() waits for nobody. What only reads the engine's counters, norms and rates
 * is this rank's own call, and the same on all. */
/* The four things of deepspeed.initialize(). optimizer, loader and scheduler may be NULL pointers
 * when not wanted; they belong to the engine and come back NULL where there is none. */
DS_API ds_status ds_initialize(const ds_initialize_args *args, ds_engine **engine,
                               ds_optimizer **optimizer, ds_dataloader **training_dataloader,
                               ds_lr_scheduler **lr_scheduler, ds_error *err);
DS_API void ds_engine_destroy(ds_engine *e);

/* Runs the model on a batch and returns its output (the loss); it lives until the next forward
 * after a backward, or until destroy. With the config's sequence_parallel_size s, the s ranks of a
 * group give the same whole batch; each computes with its stretch of the second dimension (tokens),
 * which s must divide. A cross entropy is then that of all stretches, on each rank; other outputs
 * are of its own. */
DS_API ds_status ds_engine_forward(ds_engine *e, const ds_batch *batch, ds_value **loss,
                                   ds_error *err);
/* Gradients of loss / gradient_accumulation_steps, added to those of the micro batches before. Over
 * data-parallel ranks they become the mean (gradient_allreduce_op): at stages 2 and 3 here, else here
 * at a boundary with overlap_comm, or in step. */
DS_API ds_status ds_engine_backward(ds_engine *e, ds_value *loss, ds_error *err);
/* At an accumulation boundary: clips, updates, steps the schedule. Otherwise only counts the micro
 * step. A non-finite gradient norm: with bf16.check_grad_overflow or fp32, DS_ERR_NUMERIC naming
 * the first such parameter; parameters are untouched. With fp16 the step is left out: DS_OK,
 * parameters, moments and schedule as before, skipped_steps one more, and the loss scale goes the
 * way of DeepSpeed's DynamicLossScaler; DS_ERR_NUMERIC where it is at min_loss_scale already. */
DS_API ds_status ds_engine_step(ds_engine *e, ds_error *err);
/* All of a step: loader -> forward, backward, step over the accumulation steps; *loss is the mean
 * of the micro batches', of all ranks. In a pipeline (the config's "pipeline": {"stages": N}) every
 * stage calls it, the accumulation steps are the micro batches in flight, and it is the only way:
 * forward, backward and step are DS_ERR_UNSUPPORTED there. */
DS_API ds_status ds_engine_train_batch(ds_engine *e, float *loss, ds_error *err);
DS_API ds_status ds_engine_zero_grad(ds_engine *e, ds_error *err);
DS_API void ds_engine_train(ds_engine *e, bool training); /* false: forward keeps no tape */
/* The context, to run ops on a loss of the host app's own between forward and backward. */
DS_API ds_ctx *ds_engine_ctx(ds_engine *e);
/* The loss of this rank's batch. */
DS_API ds_status ds_engine_loss(ds_engine *e, const ds_value *loss, float *out, ds_error *err);

DS_API bool ds_engine_is_gradient_accumulation_boundary(const ds_engine *e);
/* This process among all that train together, and how many there are. */
DS_API int ds_engine_global_rank(const ds_engine *e);
DS_API int ds_engine_world_size(const ds_engine *e);
DS_API int64_t ds_engine_global_steps(const ds_engine *e);
DS_API int64_t ds_engine_global_samples(const ds_engine *e); /* of all ranks */
DS_API int64_t ds_engine_micro_steps(const ds_engine *e);
DS_API int64_t ds_engine_skipped_steps(const ds_engine *e);
DS_API bool ds_engine_was_step_applied(const ds_engine *e);
DS_API double ds_engine_get_lr(const ds_engine *e); /* of group 0, for the next update */
DS_API double ds_engine_get_global_grad_norm(
    const ds_engine *e); /* of the last step, before clipping; NAN before the first */
/* For the next backward; 1 without fp16. */
DS_API double ds_engine_loss_scale(const ds_engine *e);
DS_API int64_t ds_engine_train_batch_size(const ds_engine *e);
DS_API int64_t ds_engine_train_micro_batch_size_per_gpu(const ds_engine *e);
DS_API int64_t ds_engine_gradient_accumulation_steps(const ds_engine *e);
/* Keeps the micro batch, changes the accumulation steps; T must be a multiple of micro batch x
 * data-parallel ranks. At a boundary only. */
DS_API ds_status ds_engine_set_train_batch_size(ds_engine *e, int64_t train_batch_size,
                                                ds_error *err);

DS_API const ds_params *ds_engine_params(const ds_engine *e);
/* Reads (writes) a parameter's f32 master weights, or its gradient so far in this step (without the
 * loss scale; zeros where there is none), to (from) host memory; n elements. All of the parameter as it
 * was declared, and the gradient over all data-parallel ranks, wherever their parts lie. All ranks call
 * it for the same parameter, and each gets the result; to write, all give the same values. */
DS_API ds_status ds_engine_read_param(ds_engine *e, int index, float *out, size_t n, ds_error *err);
DS_API ds_status ds_engine_write_param(ds_engine *e, int index, const float *in, size_t n,
                                       ds_error *err);
DS_API ds_status ds_engine_read_grad(ds_engine *e, int index, float *out, size_t n, ds_error *err);

/* dir/tag/ (tag NULL = "global_stepN"); then dir/latest names it. Everything to go on bit for bit:
 * weights, moments, counters, schedule, loader position, and client_state (JSON text or NULL). Safe
 * against a kill at any moment. Of several ranks all call it, with one folder that they all see, and
 * each writes what is its own; what one fails at, all do. The files don't depend on the layout of ranks. */
DS_API ds_status ds_engine_save_checkpoint(ds_engine *e, const char *dir, const char *tag,
                                           const char *client_state, ds_error *err);
/* tag NULL = what `latest` names. client_state (may be NULL) gets new text (free()) or NULL. On
 * failure the engine is as before, but for a failure of the device amid loading: parameters are
 * then undefined, see above. Where they were, loading makes the engine sound. All ranks call it, as
 * many and laid out as they like; losses go on as they would have, as long as the train batch size
 * is the same and epochs are whole batches. */
DS_API ds_status ds_engine_load_checkpoint(ds_engine *e, const char *dir, const char *tag,
                                           char **client_state, ds_error *err);
/* A Hugging Face folder: config.json and model.safetensors in bf16 (save_16bit_model; in fp16 training
 * too, since masters may lie beyond its range) or f32. All ranks call it. */
DS_API ds_status ds_engine_save_model(ds_engine *e, const char *folder, bool bits16, ds_error *err);

/* One kind of work. name (static): an op of ds_ops.def; "gemm"; "quantize", "dequantize", "quant
 * gemm"; "gemm pack"; "device copy", "device fill", "upload", "download", "sync"; "graph launch",
 * of recorded work, whose ops don't count again. This struct does not grow. */
typedef struct ds_op_stats {
  const char *name;
  uint64_t calls;
  uint64_t fallbacks; /* of the calls, done by core because the plugin lacks it: by the reference,
                         or for "device copy" and "device fill" through the host */
  double seconds;     /* spent inside the calls; a device may work on after they return */
} ds_op_stats;

/* What ran where since the engine began. size, in: what the caller knows; no more than that is
 * written. Out: what was filled. */
typedef struct ds_backend_stats {
  uint32_t size;
  const char *backend, *device;
  uint64_t ops, fallback_ops; /* calls of ops, products and quantization; of them run by the
                                 reference because the plugin lacks the op */
  uint64_t device_allocs, device_bytes; /* calls of the device's alloc; bytes held now */
  double backend_seconds;               /* time spent inside backend calls */
  /* By kind, in the order of ds_ops.def; only kinds that were called. Belongs to the engine: valid
   * until the next call of this function on it, or its end. The seconds add up to backend_seconds.
   */
  const ds_op_stats *per_op;
  size_t n_per_op;
} ds_backend_stats;
DS_API ds_status ds_engine_backend_stats(const ds_engine *e, ds_backend_stats *out, ds_error *err);

/* One kind of collective, as the comms logger has seen it: an op with messages of one size among so
 * many ranks. Strings are static. A message is what the call moves of a rank's memory, the whole
 * where ranks have parts of it. Bandwidths are DeepSpeed's, in Gbit/s, of the mean time: the
 * algorithm's (of an allreduce, twice the message), and the bus's. This struct does not grow. */
typedef struct ds_comms_stats {
  const char *op;    /* allreduce, reduce_scatter, allgather, broadcast, alltoall, send, recv */
  const char *group; /* with comms_logger.debug: "world", "zero", "tensor", ...; else "" */
  int32_t ranks;
  uint64_t message_bytes, calls;
  uint64_t sent_bytes; /* by this rank, of all calls together, at least */
  uint64_t timed;      /* of the calls, those that the times are of: all but failed ones */
  double seconds, least_seconds, most_seconds;
  double algorithm_gbps, bus_gbps;
} ds_comms_stats;
/* What this rank's collectives took since the engine began, in the order of their first calls;
 * waits for the device. The rows belong to the engine and are valid until the next call of this
 * function. DS_ERR_STATE without comms_logger.enabled in the config. */
DS_API ds_status ds_engine_comms_summary(ds_engine *e, const ds_comms_stats **rows, size_t *n,
                                         ds_error *err);

/* Writes what was traced so far to the file that the config's backend.trace names: of all ranks, to
 * one file, by rank 0, which also gets the times of the others; collective. It loads in
 * https://ui.perfetto.dev and chrome://tracing: a process for each rank, with spans of compute
 * (forward, backward, update), comm (each collective, with its group and bytes) and transfer. An
 * engine that is destroyed with spans that were not saved writes them, to the file itself in a
 * world of one, else each rank to one of its own, "trace.rank3.json" for "trace.json"; that this
 * fails is logged. DS_ERR_STATE where nothing is traced. */
DS_API ds_status ds_engine_save_trace(ds_engine *e, ds_error *err);

/* ================================================================ the inference engine */

typedef struct ds_inference ds_inference;

typedef struct ds_init_inference_args {
  uint32_t size;
  ds_model *model; /* the caller's; or */
  /* A Hugging Face folder with weights, or a checkpoint directory of a training engine (its latest,
   * or one tag), whose files are held against their checksums first. A given model without weights
   * starts from random ones, with a warning; a checkpoint without weights is an error. */
  const char *checkpoint;
  const char *config; /* path or JSON text; NULL = defaults */
  const char *kwargs; /* JSON text; wins over config, deeply */
  ds_log_fn log;
  void *log_ctx;
} ds_init_inference_args;
#define DS_INIT_INFERENCE_ARGS_INIT                                                                \
  { sizeof(ds_init_inference_args), NULL, NULL, NULL, NULL, NULL, NULL }

DS_API ds_status ds_init_inference(const ds_init_inference_args *args, ds_inference **out,
                                   ds_error *err);
DS_API void ds_inference_destroy(ds_inference *e);
/* The model that the engine generates with. */
DS_API ds_model *ds_inference_module(ds_inference *e);
/* The tokenizer found beside the weights, or NULL. Belongs to the engine. */
DS_API const ds_tokenizer *ds_inference_tokenizer(const ds_inference *e);

typedef struct ds_generate_args {
  uint32_t size;
  int64_t max_new_tokens; /* also bounded by max_out_tokens of the config, prompt included */
  int64_t min_new_tokens; /* the end token is not taken before; -1 = the config's min_out_tokens */
  double temperature;     /* 0 = greedy */
  int64_t top_k;          /* 0 = all */
  double top_p;           /* 1 = all */
  uint64_t seed;
  int32_t eos_token; /* -1 = the model's; -2 = never stop early */
  /* Called with each new token; returning false stops. May be NULL. */
  bool (*on_token)(void *ctx, int32_t token);
  void *on_token_ctx;
} ds_generate_args;
#define DS_GENERATE_ARGS_INIT                                                                      \
  { sizeof(ds_generate_args), 100, -1, 0.0, 0, 1.0, 0, -1, NULL, NULL }

/* Prompt ids -> new ids (free()), without the prompt. The same arguments give the same tokens.
 * When the device fails, what was in flight is lost and the call says why; the next one works, on a
 * new stream, with the weights as they are. On a lost device each call fails. */
DS_API ds_status ds_inference_generate(ds_inference *e, const int32_t *prompt, size_t n_prompt,
                                       const ds_generate_args *args, int32_t **tokens,
                                       size_t *n_tokens, ds_error *err);
/* Logits f32 [T,V] of every position of ids [T], to new memory (free()). */
DS_API ds_status ds_inference_forward(ds_inference *e, const int32_t *ids, size_t n, float **logits,
                                      int64_t *vocab_size, ds_error *err);
/* Wall-clock of the last generate: seconds until the first token, and for the rest; tokens of each.
 */
typedef struct ds_generate_times {
  uint32_t size;
  double prompt_seconds, decode_seconds;
  int64_t prompt_tokens, decode_tokens;
} ds_generate_times;
DS_API ds_status ds_inference_times(const ds_inference *e, ds_generate_times *out, ds_error *err);
DS_API ds_status ds_inference_backend_stats(const ds_inference *e, ds_backend_stats *out,
                                            ds_error *err);

/* ================================================================ backends and configs, for tools
 */

typedef struct ds_backend_candidate {
  uint32_t size;
  const char *name; /* from the note; NULL when it could not be read */
  const char *version;
  const char *path; /* NULL: built in */
  int32_t priority;
  const char *state;  /* "chosen", "available" or "rejected" */
  const char *reason; /* rejected: why, and the cure; available: which other of its name was taken,
                         or NULL; chosen: NULL */
  const char *device; /* the first device's name; NULL when rejected */
} ds_backend_candidate;

/* Every candidate in the order of discovery, for this config (path or JSON text; NULL = defaults).
 * Free with ds_backend_list_destroy. */
DS_API ds_status ds_backend_list(const char *config, ds_backend_candidate **out, size_t *count,
                                 ds_error *err);
DS_API void ds_backend_list_destroy(ds_backend_candidate *list, size_t count);

/* Checks a training config (path or JSON text) for that many ranks in all and gives the resolved one
 * as new JSON text (free()). All errors are reported in one message, a line each. */
DS_API ds_status ds_config_resolve(const char *config, int world_size, char **json, ds_error *err);

#ifdef __cplusplus
}
#endif

#endif
