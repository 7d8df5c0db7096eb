/* zero_impl.h - what the files of core/zero/ share. */
#ifndef DS_ZERO_ZERO_IMPL_H
#define DS_ZERO_ZERO_IMPL_H

#include "zero/buffers.h"
#include "zero/disk.h"
#include "zero/order.h"
#include "zero/zero.h"

typedef struct ds_zero_unit {
  ds_buffer *weights; /* gathered; NULL: not here, or in place (at stages 0 to 2), or persistent */
  bool on_way;        /* being gathered: wait for `gathered` */
  ds_mark *gathered;
  uint64_t used;    /* z->uses of the last op that needed it */
  void *persistent; /* stage 3: gathered for good */
  ds_buffer *wire;  /* plusplus.h: int8 weights on their way; NULL: none */
  bool has_near;    /* the secondary copy is that of the weights of now */

  ds_buffer *grad;      /* stages 2 and 3: of the micro batch, until it is reduced */
  int complete;         /* members whose gradients are complete in this micro batch */
  bool added;           /* the own part of gradients holds something of this step */
  bool to_add;          /* the reduced part is in `grad`, to be added */
  ds_mark *done;        /* reduced */
  ds_buffer *grad_wire; /* plusplus.h: int8 gradients */
} ds_zero_unit;

/* Where a slice begins, in the own part of a unit. */
typedef struct ds_slice_place {
  int unit;
  int64_t at;
} ds_slice_place;

struct ds_zero {
  ds_zero_rules rules;
  ds_ctx *ctx;
  ds_backend *backend;
  ds_group *group;                     /* NULL: this rank alone */
  int rank;                            /* whose own part of the layout is here; 0 at stage 0 */
  bool partial_weights, partial_grads; /* only the own part is there */
  const ds_params *params;
  const bool *frozen;
  ds_unit_layout layout;
  ds_param_slot *slots;

  int32_t dtype; /* of weights */
  size_t element;
  /* On the device. */
  void *weights; /* of places, or of the own part; next to nothing where that is offloaded */
  float *grads;  /* of trained places, or of the own part; likewise */
  /* On the device, or offloaded; NULL where they are in a file. */
  float *masters;   /* own part; NULL in f32, where weights are the masters */
  float *states[4]; /* own part, trained */
  double *squares;  /* one f64, where gradients are */

  /* Offloaded. */
  bool offloads, offloads_params;
  ds_backend *host;   /* where that is computed with; the backend where nothing is offloaded */
  ds_ctx *host_ctx;   /* of it; the engine's where that is on the same backend */
  char *host_weights; /* own part in the dtype of weights; NULL where it is in a file */
  float *host_grads;  /* own part, trained */
  ds_disk *disk, *param_disk; /* files; NULL: none */
  struct ds_stage *stages;    /* update.c: room for slices from a file */
  int n_stages;
  struct {
    void *data;
    ds_mark *used;
  } * reads; /* offload.c: room for parameters from a file */
  int n_reads, next_read;
  float *add; /* room for a shard of gradients that is added to those in host memory */
  ds_zero_bytes bytes;

  /* plusplus.h */
  bool sends_int8, sums_int8; /* weights; gradients */
  void *sent;                 /* own part as int8 */
  ds_group *near;             /* NULL: no secondary copies */
  void *secondary;            /* this rank's pieces of them */

  ds_side *side; /* NULL: everything goes to the backend's stream */
  ds_zero_unit *units;
  ds_buffers buffers;
  ds_buffer *bounce; /* of ds_zero_share */
  uint64_t uses;
  ds_order orders[2];   /* by whether a backward follows */
  int64_t live, coming; /* elements of units that are gathered, and on their way */
  bool boundary;
  bool *took_part; /* by parameter: in a micro batch of this step whose gradients are reduced */
  bool reducing;   /* the side stream may have gradients that the backend's hasn't waited for */
  bool summed;     /* stages 0 and 1: the gradients of the step are summed over ranks */
  int next;        /* the unit to be reduced next; all behind it are */
  int in_flight[2], n_in_flight;

  ds_piece *pieces;
  int n_pieces;
  ds_optimizer_slice *slices;
  ds_slice_place *places; /* of slices */
  int n_slices;
};

/* The own part of a unit, where it is in memory. */
void *ds_zero_own_weights(const ds_zero *z, int unit);
float *ds_zero_own_masters(const ds_zero *z, int unit);
/* In its whole place on the device; of the own part, where gradients of the step come to be. */
float *ds_zero_own_grads(const ds_zero *z, int unit);
float *ds_zero_step_grads(const ds_zero *z, int unit);

/* reduce.c: how gradients of ranks become one. */
ds_reduce ds_zero_reduction(const ds_zero *z);

/* offload.c */
DS_MUST_USE ds_status ds_zero_offload_init(ds_zero *z, ds_backend *host, ds_error *err);
DS_MUST_USE ds_status ds_zero_offload_clear(ds_zero *z, ds_error *err);
void ds_zero_offload_finish(ds_zero *z);
/* Between device and offloaded memory, on the side stream where there is one; asynchronous where the
 * memory is pinned. */
DS_MUST_USE ds_status ds_zero_to_device(ds_zero *z, void *dst, const void *src, size_t bytes,
                                        ds_error *err);
DS_MUST_USE ds_status ds_zero_from_device(ds_zero *z, void *dst, const void *src, size_t bytes,
                                          ds_error *err);
/* The host waits for such transfers. */
DS_MUST_USE ds_status ds_zero_sync(ds_zero *z, ds_error *err);
/* Where an array of the own part begins in the file: by kind (zero.h). */
int64_t ds_zero_file_place(const ds_zero *z, int kind);
/* Weights of elements [at, at + n) of the own part, from f32 masters in host memory: where they are
 * kept, and on the device where they aren't offloaded. */
DS_MUST_USE ds_status ds_zero_put_weights(ds_zero *z, int unit, int64_t at, int64_t n,
                                          const float *masters, ds_error *err);
void *ds_zero_host_alloc(ds_zero *z, size_t bytes, ds_error *err);
void ds_zero_host_free(ds_zero *z, void *p);

/* gather.c: makes all of a unit's weights at `whole` from every rank's own part, on the side stream. */
DS_MUST_USE ds_status ds_zero_gather_unit(ds_zero *z, int unit, void *whole, ds_error *err);
DS_MUST_USE ds_status ds_zero_refresh(ds_zero *z, int unit, int64_t at, int64_t n, ds_error *err);
/* Hooks. */
ds_status ds_zero_need(void *self, const int *params, int n, ds_error *err);
void ds_zero_release_all(ds_zero *z);
DS_MUST_USE ds_status ds_zero_prefetch(ds_zero *z, ds_error *err);
/* reduce.c: hooks */
ds_status ds_zero_want_grad(void *self, int param, ds_error *err);
ds_status ds_zero_done(void *self, int param, ds_error *err);
void ds_zero_bind_hooks(ds_zero *z);

#endif
