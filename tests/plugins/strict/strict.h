/* strict.h - a plugin that holds core to every promise of ds_abi.h, for tests.
 *
 * Its arithmetic is the reference's. Everything else is as unkind as the header allows: device
 * memory faults when the host touches it (or, "accessible", shows NaN until the work is done), work
 * runs late on another thread, in any legal order across streams, memory is poisoned when it is
 * allocated and freed. Rules are judged by what the host may know, not by what happens to have run:
 * work counts as pending until a wait that covers it has returned, so that a missing wait is found
 * in every run. A broken rule is a violation: logged as an error ("strict: violation: ..."), the
 * stream fails with DS_ERR_INTERNAL, and with "abort" the process ends.
 *
 * Options, from the config or, where it has none, from the environment's DS_STRICT:
 *   seed        of the order and lateness of work
 *   tables      "all"; "none": everything falls back in core; "ops": only these; "gemm": products
 *               and quantization
 *   graph       false: what would be recorded is DS_ERR_UNSUPPORTED, at begin
 *   accessible  the host may touch memory (DS_DEVICE_HOST_ACCESSIBLE); work is still late
 *   abort       end the process at the first violation
 *   fail_call   the Nth call after open fails, and has done nothing
 *   fail_work   the Nth piece of work fails when it runs: its stream is dead
 *   hang_work   the Nth piece of work does not end; after hang_ms (20) it fails with a timeout
 *   status      a ds_status, what fails fails with (DS_ERR_DEVICE)
 *   lost        with the failure the device is lost for good
 *
 * At close it logs "strict: closed: N calls, N works" (info), by which tests choose N.
 */
#ifndef DS_TEST_STRICT_H
#define DS_TEST_STRICT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ds_abi.h"

enum { STRICT_DEVICES = 2, STRICT_STREAMS = 64, STRICT_RANGES = 16, STRICT_TENSORS = 16 };

typedef struct strict_options {
  uint64_t seed;
  bool gemm, ops, graph, accessible, abort, lost;
  uint64_t fail_call, fail_work, hang_work;
  int64_t hang_ms;
  ds_status status;
} strict_options;

/* Device memory that work names. */
typedef struct strict_range {
  uintptr_t lo, hi;
  bool write;
  bool fresh; /* written whole, and read by nobody else: poisoned until then */
  bool host;  /* memory of host_alloc */
} strict_range;

typedef struct strict_task strict_task;

/* A piece of work. Its addresses are the device's until it runs. */
struct strict_task {
  strict_task *next;
  uint64_t seq;                   /* in its stream, from 1 */
  uint64_t number;                /* in its device, from 1 */
  uint64_t after[STRICT_STREAMS]; /* by stream: the last piece that comes before it */
  uint64_t relies[STRICT_STREAMS];
  char name[48];
  strict_range ranges[STRICT_RANGES];
  int n_ranges;
  const char *broken; /* a rule that naming the ranges has broken, or NULL */
  bool ran;
  bool is_op; /* of u: which has addresses of its own within */
  ds_status (*run)(strict_task *t, ds_device *d, ds_error *err);
  void *bytes; /* an upload's; freed with the task */
  union {
    struct {
      ds_op op;
      ds_tensor tensors[STRICT_TENSORS];
      const ds_tensor *list[STRICT_TENSORS];
      ds_attr attr[16];
    } op;
    ds_gemm gemm;
    struct {
      ds_quant q;
      ds_quant_gemm g;
      void *x;
    } quant;
    struct {
      void *dst;
      const void *src;
      size_t bytes;
      uint8_t byte;
    } move;
    struct {
      ds_comm *comm; /* the reference's */
      const void *send;
      void *recv;
      int64_t count;
      int32_t dtype, number;
      ds_reduce reduce;
    } comm;
  } u;
};

struct ds_stream {
  ds_device *device;
  int index;
  bool destroyed;
  atomic_bool busy;
  strict_task *first, *last; /* what the host does not know to be done */
  uint64_t submitted, ran;
  uint64_t clock[STRICT_STREAMS];  /* by stream: what its next work comes after */
  uint64_t relies[STRICT_STREAMS]; /* of it, what was waited for by event: its failure is ours */
  ds_graph *recording;             /* between begin and end */
  ds_error failure;                /* status DS_OK while it lives */
  uint64_t good;                   /* of a dead one: pieces before the failure */
};

struct ds_event {
  ds_event *next;
  ds_device *device;
  bool destroyed;
  uint64_t clock[STRICT_STREAMS], relies[STRICT_STREAMS];
};

/* Work that is given anew at each launch. */
struct ds_graph {
  ds_graph *next;
  ds_device *device;
  bool destroyed;
  strict_task *first, *last;
  ds_error failure;               /* while recording; status DS_OK: none */
  uint64_t clock[STRICT_STREAMS]; /* of the last launch */
};

struct ds_comm {
  ds_comm *next;
  ds_device *device;
  ds_comm *reference;
  bool destroyed;
  atomic_bool busy;
  int stream; /* of the last call */
  uint64_t seq;
};

typedef struct strict_block {
  struct strict_block *next;
  bool host; /* of host_alloc: its addresses are the host's */
  uintptr_t lo, hi;
  uintptr_t poisoned; /* up to here; the rest when it is first named, for large blocks are many */
} strict_block;

struct ds_device {
  ds_device *next;
  int32_t index;
  bool closed;
  atomic_bool busy;
  strict_options options;
  pthread_mutex_t lock;
  pthread_cond_t work, progress;
  pthread_t worker;
  bool stop, lost;
  const strict_task *running;
  strict_block *blocks;
  strict_block *doomed; /* freed while work used them, or by work: really freed at close */
  ds_stream *streams[STRICT_STREAMS];
  int n_streams;
  ds_event *events;
  ds_comm *comms;
  ds_graph *graphs;               /* recorded or being so, not destroyed */
  uint64_t known[STRICT_STREAMS]; /* by stream: the last piece that the host knows to be done */
  uint64_t random;
  uint64_t credit; /* pieces that may run though nobody waits */
  int waiting;     /* host threads that wait for work */
  uint64_t calls, works;
};

extern const ds_host *strict_host;

/* ---- rules.c */

ds_status strict_fail(ds_error *err, ds_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Records a broken rule; s (may be NULL) fails with it. Returns DS_ERR_INTERNAL. */
ds_status strict_violation(ds_device *d, ds_stream *s, ds_error *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Begin and end of a call: the handle is one that we gave out, no other thread is in, the call is
 * counted and may be the one that fails. On success the device is locked until leave. */
ds_status strict_enter(ds_stream *s, const char *what, ds_error *err);
/* The same for what can't be recorded. */
ds_status strict_enter_unrecorded(ds_stream *s, const char *what, ds_error *err);
void strict_leave(ds_stream *s);
ds_status strict_enter_device(ds_device *d, const char *what, ds_error *err);
void strict_leave_device(ds_device *d);
/* For functions that can't fail: false after recording that d is not to be used. */
bool strict_enter_quietly(ds_device *d, const char *what);
ds_status strict_options_parse(const char *text, strict_options *out, ds_error *err);
void strict_register(ds_device *d);
bool strict_knows_stream(const ds_stream *s);

/* ---- memory.c: ranges. The device is locked. */

void *strict_host_address(const ds_device *d, const void *device_address);
void strict_poison(const ds_device *d, uintptr_t lo, uintptr_t hi);
/* The allocation that a range lies in, or NULL. What nobody has named so far is poisoned now. */
strict_block *strict_find_block(ds_device *d, uintptr_t lo, uintptr_t hi, bool host);
bool strict_overlap(const strict_range *a, const strict_range *b);
void strict_name_range(strict_task *t, const void *p, size_t bytes, bool write, bool fresh);
void strict_name_host_range(strict_task *t, const void *p, size_t bytes, bool write);
/* inputs and outputs of one piece of work: ranges, alignment, overlaps. */
void strict_name_tensors(strict_task *t, const ds_tensor *const *in, uint32_t n_in,
                         const ds_tensor *const *out, uint32_t n_out, uint32_t accumulate);
ds_status strict_alloc(ds_device *d, size_t bytes, bool host, void **out, ds_error *err);
void strict_free(ds_device *d, void *p, bool host);
/* No use of it may be given any more; it stays until the device is closed. */
void strict_doom(ds_device *d, strict_block *b);

/* ---- queue.c: work. The device is locked. */

strict_task *strict_task_new(const char *name,
                             ds_status (*run)(strict_task *t, ds_device *d, ds_error *err));
void strict_task_free(strict_task *t);
/* Takes t. The rules of ranges and order are checked, then it waits for its turn; or it is recorded.
 */
ds_status strict_submit(ds_stream *s, strict_task *t, ds_error *err);
/* Of these checks those that need no order. */
ds_status strict_check_ranges(ds_stream *s, strict_task *t, ds_error *err);
/* The same checks for what runs at once. */
ds_status strict_check(ds_stream *s, strict_task *t, ds_error *err);
/* The stream that failed before what is relied on, or NULL. */
const ds_stream *strict_failed_before(const ds_device *d, const uint64_t relies[STRICT_STREAMS]);
/* Waits until all work of clock is done; the host then knows so. */
void strict_wait(ds_device *d, const uint64_t clock[STRICT_STREAMS]);
ds_status strict_sync(ds_stream *s, ds_error *err);
void strict_kill(ds_stream *s, ds_status status, const char *message);
void strict_lose(ds_device *d);
void *strict_worker(void *device);

/* ---- graph.c. The device is locked. */

/* Takes t: it becomes part of what s records. */
ds_status strict_record(ds_stream *s, strict_task *t, ds_error *err);
/* A call of s failed so while it recorded. */
void strict_record_failure(ds_stream *s, ds_status status, const char *message);
void strict_graph_free(ds_graph *g);
/* The piece of recorded work that names part of the block, or NULL. */
const strict_task *strict_recorded_use(const ds_device *d, const strict_block *b);

/* ---- device.c, memory_stream.c, work.c, comm.c, graph.c */

/* Transfers with memory of the host, and memory in the order of a stream. */
ds_status strict_host_alloc(ds_device *d, size_t bytes, void **out, ds_error *err);
void strict_host_free(ds_device *d, void *p);
ds_status strict_upload_async(ds_stream *s, void *dst, const void *src, size_t bytes,
                              ds_error *err);
ds_status strict_download_async(ds_stream *s, void *dst, const void *src, size_t bytes,
                                ds_error *err);
ds_status strict_stream_alloc(ds_stream *s, size_t bytes, void **out, ds_error *err);
ds_status strict_stream_free(ds_stream *s, void *p, ds_error *err);

extern const ds_device_table strict_device;
extern const ds_gemm_table strict_gemm;
extern const ds_quant_table strict_quant;
extern const ds_ops_table strict_ops;
extern const ds_comm_table strict_comm;
extern const ds_graph_table strict_graph;

#endif
