/* buggy.h - a plugin made of the reference's sources with one seeded bug, for testing `ds conform`.
 *
 * The bug is chosen when it is compiled; BUG_NONE is the same plugin without a bug, which must pass
 * everything. What each bug must be found by stands in bugs.txt.
 *
 * Its collectives are naive, over sockets that the key-value store introduces: they need no MPI.
 * Each stream has a thread that runs them in order; all other work waits for it and then runs at
 * once.
 */
#ifndef BUGGY_H
#define BUGGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "backend/reference/tables.h"
#include "base/status.h"

enum {
  BUG_NONE,
  /* abi */
  BUG_ENDLESS_MESSAGE,  /* a message without its NUL */
  BUG_STATUS_MISMATCH,  /* err->status is not what was returned */
  BUG_PRINTS,           /* a line on stdout when a stream is made */
  BUG_SETS_ENVIRONMENT, /* setenv in open */
  BUG_SETS_ROUNDING,    /* the caller's rounding mode */
  BUG_SETS_HANDLER,     /* of SIGTERM */
  BUG_REFUSES_NEWER,    /* a host that knows later minors */
  BUG_TAKES_ANY_MAJOR,  /* and another major */
  BUG_READS_PAST_HOST,  /* what a later ds_host may have */
  BUG_READS_PAST_GEMM,  /* what a later ds_gemm may have */
  BUG_SIZE_EQUAL,       /* sizes of ds_op compared with == */
  BUG_SIZE_UNCHECKED,   /* a ds_quant of any size */
  BUG_EXPORTS,          /* a second symbol */
  BUG_DELETABLE,        /* linked without nodelete */
  BUG_HALF_GROUP,       /* events without event_wait */
  BUG_OTHER_NAME,       /* note and table disagree */
  /* device */
  BUG_EXITS,            /* exit(0) in open */
  BUG_UNALIGNED,        /* memory at 16 bytes */
  BUG_UPLOAD_LATE,      /* reads the source of an upload after it returned */
  BUG_INFO_OVERRUN,     /* writes all of a short ds_device_info */
  BUG_TAKES_ANY_OPTION, /* unknown options are ignored */
  BUG_HOST_UNALIGNED,   /* memory of host_alloc at 16 bytes */
  BUG_ASYNC_SHORT,      /* the last byte of an odd number is not downloaded */
  BUG_STREAM_FREE,      /* doesn't take NULL */
  BUG_PEER_SHORT,       /* whole words only */
  /* lifetime */
  BUG_LEAKS_THREAD,
  BUG_LEAKS_FILE,
  BUG_LEAKS_MEMORY,
  BUG_LEAKS_PAGES,   /* of mmap: malloc knows nothing of them */
  BUG_LEAKS_REFUSED, /* memory of an open that fails */
  BUG_SHARED_DEVICE, /* closing one device ends all */
  BUG_CRASHES_AT_EXIT,
  /* threads */
  BUG_SHARED_STATE,  /* one scratch buffer for all streams */
  BUG_FLIPS,         /* supports answers otherwise now and then */
  BUG_EVENT_IGNORED, /* event_create fails on a second event */
  /* ops */
  BUG_TOLERANCE,        /* softmax off by 1e-4 */
  BUG_STRIDES,          /* rope takes its input for contiguous */
  BUG_ACCUMULATE,       /* layer_norm_backward overwrites */
  BUG_ONE_PAST,         /* gather_rows writes an element too many */
  BUG_NONDETERMINISTIC, /* mean differs in its last bit */
  BUG_TIES,             /* argmax gives the last of equals */
  BUG_CRASHES_ODD,      /* swiglu on an odd number of elements */
  BUG_SUPPORTS_LIES,    /* rms_norm is taken, then refused */
  BUG_HANGS,            /* reduce_rows */
  BUG_WRITES_INPUT,     /* softmax_backward's kin: cross_entropy spoils its logits */
  BUG_APPEND_CLAMPS,    /* rows outside go to the last place */
  BUG_CLIP_LOSS,        /* a loss that is no number is not looked at */
  BUG_NEVER_SKIPS,      /* adamw_scheduled with a factor of NaN */
  BUG_SAMPLE_ORDER,     /* walks from the last id */
  BUG_SAMPLE_BANNED,    /* may be the answer */
  BUG_MISREADS_F16,     /* mul takes f16 for bf16 */
  BUG_SATURATES,        /* mul in f16 stops at the largest number instead of infinity */
  /* gemm */
  BUG_TRANS_B,      /* read as if it were not transposed */
  BUG_BETA_READS_C, /* 0 * NaN */
  BUG_LDC,          /* rows of C without gaps */
  BUG_BIAS,         /* off by one */
  BUG_STRIDE_ZERO,  /* of A, taken for m * lda */
  BUG_K_ZERO,       /* C untouched */
  BUG_EPILOGUE,     /* none for SiLU */
  BUG_SCALES,       /* only A's is applied */
  /* quant */
  BUG_QUANT_ROUNDING, /* truncates */
  BUG_ZERO_GROUP,     /* a scale of 0 */
  /* graph */
  BUG_RUNS_RECORDED,   /* work runs while it is recorded, too */
  BUG_LAUNCHES_ONCE,   /* later launches do nothing */
  BUG_KEEPS_POINTERS,  /* to descriptors, which are gone by then */
  BUG_RECORDS_UPLOADS, /* upload is done at once */
  BUG_BREAKS_OFF,      /* a refused call ends the recording */
  BUG_GRAPH_OF_STREAM, /* goes with the stream it was recorded on */
  BUG_LEAKS_GRAPH,
  /* comm */
  BUG_RANK_ORDER,    /* allgather from the last rank to the first */
  BUG_BARRIER,       /* waits for nobody */
  BUG_IN_PLACE,      /* reduce_scatter overwrites what it has yet to add */
  BUG_SPLIT_KEY,     /* ignored */
  BUG_RECV_BLOCKS,   /* the caller, not the stream */
  BUG_NO_TIMEOUT,    /* waits for ever */
  BUG_ABORT,         /* does nothing */
  BUG_MEAN_ROUNDS,   /* bf16 rounded at every addition */
  BUG_MESSAGES_SWAP, /* broadcast from the wrong root */
  /* faults */
  BUG_NULL_ALLOC,      /* of the host is not looked at */
  BUG_STORE_SILENT,    /* a failure of the store is passed on without its message */
  BUG_LEAKS_EXHAUSTED, /* memory when the device has none left */
  /* engine */
  BUG_ADAMW, /* forgets the second moment's correction after step 2 */
  BUG_DECODE /* attention with a cache is one key short */
};

/* Which one: plugin.c is compiled with -DBUG_CHOSEN=BUG_..., all else once for all. */
extern const int buggy_bug;
#define BUG buggy_bug

extern const ds_host *buggy_host;

void *buggy_alloc(size_t bytes); /* zeroed, of the host; NULL when exhausted */
void buggy_free(void *p);

/* device.c */
struct ds_device {
  ds_device *inner; /* the reference's */
  int id;
};
/* Waits for the stream's thread; its failure, from the first on, is every later call's. */
ds_status buggy_wait(ds_stream *s, ds_error *err);
/* Work for the stream's thread. job is freed by it; a failure of run becomes the stream's. */
typedef struct buggy_job {
  ds_status (*run)(struct buggy_job *job, ds_error *err);
  void (*drop)(struct buggy_job *job); /* called instead on a dead stream; may be NULL */
  struct buggy_job *next;
} buggy_job;
ds_status buggy_post(ds_stream *s, buggy_job *job, ds_error *err);
/* What s records, or NULL. */
ds_graph **buggy_recording(ds_stream *s);
/* DS_ERR_STATE while s records. */
ds_status buggy_unrecorded(ds_stream *s, const char *what, ds_error *err);
/* Does what BUG_UPLOAD_LATE put off. */
void buggy_late_upload(void);
extern const ds_device_table buggy_device;

/* compute.c */
extern const ds_gemm_table buggy_gemm;
extern const ds_quant_table buggy_quant;
extern const ds_ops_table buggy_ops;

/* graph.c: true where s records; *st is then what the call returns. */
bool buggy_record_op(ds_stream *s, const ds_op *op, ds_status *st, ds_error *err);
bool buggy_record_gemm(ds_stream *s, const ds_gemm *g, ds_status *st, ds_error *err);
typedef ds_status buggy_move(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err);
bool buggy_record_move(ds_stream *s, buggy_move *move, void *dst, const void *src, size_t bytes,
                       ds_status *st, ds_error *err);
bool buggy_record_fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_status *st,
                       ds_error *err);
/* What can't be recorded here but is no call out of order. */
ds_status buggy_not_recorded(ds_stream *s, const char *what, ds_error *err);
void buggy_graph_drop(ds_graph *g);
extern const ds_graph_table buggy_graph;

/* comm.c */
extern const ds_comm_table buggy_comm;

/* mesh.c: a socket to every other rank. */
typedef struct mesh {
  int rank, size;
  int *sockets;       /* by rank; own: -1 */
  int64_t timeout_ms; /* 0: none */
  const volatile bool *aborted;
} mesh;
/* What goes to and comes from one rank. */
typedef struct parcel {
  const void *out;
  void *in;
  size_t out_bytes, in_bytes;
} parcel;
/* kv only while it runs. group makes the keys of one communicator its own. */
ds_status mesh_create(mesh *m, int rank, int size, const char *group, const ds_kv_store *kv,
                      int64_t timeout_ms, ds_error *err);
void mesh_finish(mesh *m);
/* parcels by rank; own parcel is copied. `call` for messages. Until all is through. */
ds_status mesh_exchange(mesh *m, const char *call, const parcel *p, ds_error *err);

#endif
