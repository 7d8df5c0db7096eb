/* comm_end.c - the end of MPI, with the process; who still waits then, and how long others are waited
 * for. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* on_exit */
#endif
#include "comm_runtime.h"
#include "queue.h"

#include <stdlib.h>

#ifdef DS_CPU_HAVE_MPI

#define mpi ds_cpu_mpi

static atomic_int waiting;      /* calls of exchange */
static atomic_bool left_behind; /* messages that were given up */
static atomic_bool failed;      /* a call ran out of time or was aborted */
static atomic_bool started;     /* and it is ours to end */
static atomic_bool closing;     /* the process ends */

/* How long the process's end waits for the other ranks; a limit of 0 is above all others. */
enum { AFTER_FAILURE_MS = 1000 };
static _Atomic int64_t patience_ms = 1;

void ds_cpu_mpi_failed(void) {
  atomic_store(&failed, true);
}

void ds_cpu_mpi_patience(int64_t timeout_ms) {
  int64_t before = atomic_load(&patience_ms);
  if (timeout_ms > INT64_MAX / 2000000) timeout_ms = 0;
  while (before != 0 && (timeout_ms == 0 || timeout_ms > before) &&
         !atomic_compare_exchange_weak(&patience_ms, &before, timeout_ms)) {
  }
}

void ds_cpu_mpi_started(void) {
  atomic_store(&started, true);
}

void ds_cpu_mpi_left_behind(void) {
  atomic_store(&left_behind, true);
}

bool ds_cpu_mpi_begin_wait(void) {
  atomic_fetch_add(&waiting, 1);
  if (!atomic_load(&closing)) return true;
  atomic_fetch_sub(&waiting, 1);
  return false;
}

void ds_cpu_mpi_end_wait(void) {
  atomic_fetch_sub(&waiting, 1);
}

bool ds_cpu_mpi_closing(void) {
  return atomic_load_explicit(&closing, memory_order_relaxed);
}

/* Whether all ranks of the world come to their end in time: a barrier, as comm_run.c has it. */
static bool meet(int64_t limit_ms) {
  int size = mpi.world.world_size, rank = mpi.world.rank;
  ds_cpu_mpi_group *g = calloc(1, sizeof *g + (size_t)size * sizeof g->of[0]);
  static char words[2]; /* what can't be taken back of them is MPI's for good */
  const ds_cpu_limit limit = {
      .deadline_ns = limit_ms > 0 ? ds_cpu_now_ns() + limit_ms * 1000000 : 0, .leaving = true};
  void *requests[2];
  bool left;
  ds_error ignored;
  ds_status st = g == NULL ? DS_ERR_MEMORY : DS_OK;
  if (g != NULL) {
    *g = (ds_cpu_mpi_group){.comm = mpi.private, .tag = DS_CPU_TAG_END, .rank = rank, .size = size};
    for (int i = 0; i < size; i++) g->of[i] = i;
  }
  for (int step = 1; step < size && st == DS_OK; step *= 2) {
    const ds_cpu_message messages[] = {{&words[0], 1, (rank - step + size) % size, false},
                                       {&words[1], 1, (rank + step) % size, true}};
    st = ds_cpu_mpi_exchange(g, DS_CPU_CHANNEL_COLLECTIVE, messages, 2, requests, &limit, &left,
                             &ignored);
  }
  free(g);
  return st == DS_OK;
}

/* Whoever still waits for messages leaves first: MPI must not be ended, nor its library's memory
 * go, under them. */
static void finalize_at_exit(int code, void *unused) {
  int finalized = 0;
  (void)unused;
  bool after_failure = atomic_load(&failed) || !atomic_load(&started), sound = code == 0;
  atomic_store(&closing, true);
  sound = sound && !atomic_load(&left_behind) && atomic_load(&waiting) == 0;
  for (int i = 0; i < 2000 && atomic_load(&waiting) > 0; i++) ds_cpu_sleep_us(500);
  if (atomic_load(&started) && (mpi.Finalized(&finalized) != MPI_SUCCESS || finalized)) return;
  /* MPI_Finalize waits for every rank, a dead or stopped one too, and can't be given up. */
  if (sound && atomic_load(&started) &&
      meet(after_failure ? AFTER_FAILURE_MS : atomic_load(&patience_ms)))
    (void)mpi.Finalize();
  else if (
      after_failure) /* as the other ranks, whom the launcher ends with the first that leaves: */
    for (int i = 0; i < AFTER_FAILURE_MS; i++) ds_cpu_sleep_us(1000); /* they have a message, too */
}

ds_status ds_cpu_mpi_end_at_exit(ds_error *err) {
  if (on_exit(finalize_at_exit, NULL) == 0) return DS_OK;
  return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu comm: no memory for an exit handler");
}

#else

void ds_cpu_mpi_patience(int64_t timeout_ms) {
  (void)timeout_ms;
}

void ds_cpu_mpi_failed(void) {}

bool ds_cpu_mpi_begin_wait(void) {
  return true;
}

void ds_cpu_mpi_end_wait(void) {}

bool ds_cpu_mpi_closing(void) {
  return false;
}

#endif
