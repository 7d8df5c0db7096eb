/* comm_local.c - the segment, its words, and who waits for them. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "comm_local.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---------------------------------------------------------------- create */

/* What members tell each other: where to find a number that nobody else has. */
typedef struct card {
  int32_t pid, fd; /* fd: of the segment; the first member's counts */
  const void *address;
  uint64_t secret[2];
} card;

static size_t segment_bytes(int size) {
  size_t n = (size_t)size;
  return n * sizeof(ds_cpu_local_member) + n * n * sizeof(ds_cpu_local_pair);
}

static bool read_from(pid_t pid, void *to, const void *from, size_t bytes) {
  struct iovec mine = {to, bytes}, theirs = {(void *)from, bytes};
  return process_vm_readv(pid, &mine, 1, &theirs, 1, 0) == (ssize_t)bytes;
}

/* A process with that number, which is the one meant: on another host, or in another container, the
 * same number is somebody else's. */
static bool knows(const card *c) {
  uint64_t secret[2];
  return c->pid > 0 && read_from(c->pid, secret, c->address, sizeof secret) &&
         memcmp(secret, c->secret, sizeof secret) == 0;
}

static int make_segment(int size) {
  int fd = memfd_create("dscore", MFD_CLOEXEC);
  if (fd >= 0 && ftruncate(fd, (off_t)segment_bytes(size)) == 0) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

static int open_segment(const card *c) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", c->pid, c->fd);
  return c->fd < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
}

static bool map_segment(ds_cpu_local *l, int fd) {
  void *p = mmap(NULL, segment_bytes(l->size), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) return false;
  l->member = p;
  l->pair = (ds_cpu_local_pair *)(l->member + l->size);
  return true;
}

static bool reach_all(ds_cpu_local *l, const card *cards, int fd) {
  for (int r = 0; r < l->size; r++) {
    if (!knows(&cards[r])) return false;
    l->pid[r] = cards[r].pid;
  }
  int opened = l->rank == 0 ? -1 : open_segment(&cards[0]);
  bool mapped = map_segment(l, l->rank == 0 ? fd : opened);
  if (opened >= 0) close(opened);
  return mapped;
}

/* Two rounds: who is who; and whether all could do it, since else nobody may. */
static ds_status meet(ds_cpu_local *l, const ds_cpu_mpi_group *g, card *cards, int fd, bool *all,
                      const ds_cpu_limit *limit, ds_error *err) {
  card *mine = &cards[l->rank];
  mine->fd = fd;
  mine->address = mine->secret;
  if (getrandom(mine->secret, sizeof mine->secret, 0) != (ssize_t)sizeof mine->secret)
    mine->pid = 0;
  ds_status st = ds_cpu_mpi_tell_all(g, cards, sizeof *cards, limit, err);
  if (st != DS_OK) return st;
  char *able = (char *)(cards + l->size);
  able[l->rank] = reach_all(l, cards, fd);
  st = ds_cpu_mpi_tell_all(g, able, 1, limit, err);
  *all = true;
  for (int r = 0; r < l->size; r++) *all = *all && able[r] != 0;
  return st;
}

ds_status ds_cpu_local_create(const ds_cpu_mpi_group *g, int rank, int size, bool wanted,
                              const ds_cpu_limit *limit, ds_cpu_local **out, ds_error *err) {
  bool all = false;
  size_t n = (size_t)size;
  ds_cpu_local *l = calloc(1, sizeof *l + n * (sizeof l->pid[0] + 2 * sizeof *l->sent));
  card *cards = calloc(n, sizeof *cards + 1);
  ds_status st = DS_OK;
  *out = NULL;
  if (l == NULL || cards == NULL) {
    free(l);
    free(cards);
    return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu comm: no memory for a communicator of %d", size);
  }
  l->rank = rank;
  l->size = size;
  l->crowded = size > sysconf(_SC_NPROCESSORS_ONLN);
  l->sent = (uint32_t *)(l->pid + n);
  l->received = l->sent + n;
  cards[rank].pid = wanted ? (int32_t)getpid() : 0;
  int fd = rank == 0 ? make_segment(size) : -1;
  st = meet(l, g, cards, fd, &all, limit, err);
  if (fd >= 0) close(fd); /* all have opened it, or won't */
  free(cards);
  if (st == DS_OK && all)
    *out = l;
  else
    ds_cpu_local_destroy(l);
  return st;
}

void ds_cpu_local_destroy(ds_cpu_local *l) {
  if (l == NULL) return;
  if (l->member != NULL) munmap(l->member, segment_bytes(l->size));
  free(l);
}

/* ---------------------------------------------------------------- telling */

/* The order of the two matters: a sleeper counts itself and then looks at the word once more (the
 * kernel does, in FUTEX_WAIT), so either it sees the new value or we see the sleeper. */
static void tell(ds_cpu_local *l, _Atomic uint32_t *word, uint32_t value) {
  atomic_exchange(word, value);
  if (atomic_load(&l->member[l->rank].sleepers.value) > 0)
    syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void ds_cpu_local_lose(ds_cpu_local *l) {
  if (l != NULL) atomic_store(&l->member[l->rank].lost.value, 1);
}

void ds_cpu_local_tell(ds_cpu_local *l, ds_cpu_local_word *word, uint32_t value) {
  tell(l, &word->value, value);
}

void ds_cpu_local_tell_pieces(ds_cpu_local *l, uint32_t pieces) {
  tell(l, &l->member[l->rank].pieces.value, pieces);
}

void ds_cpu_local_tell_done(ds_cpu_local *l) {
  tell(l, &l->member[l->rank].done.value, l->turn);
}

/* The data first, and then the line that others look at, all at once: they would take it away in
 * between. */
void ds_cpu_local_arrive(ds_cpu_local *l, const ds_cpu_work *w, const void *data, size_t bytes,
                         size_t own) {
  uint32_t turn = ++l->turn;
  ds_cpu_local_entry *e = &l->member[l->rank].ring[turn % DS_CPU_LOCAL_RING];
  size_t before = bytes > 0 ? own * (size_t)l->rank : 0, after = before + own;
  if (before > 0) memcpy(e->data, data, before);
  if (bytes > after) memcpy(e->data + after, (const char *)data + after, bytes - after);
  e->call = w->call;
  e->dtype = w->dtype;
  e->op = w->op;
  e->root = w->peer;
  e->count = w->count;
  e->send = w->send;
  e->recv = w->recv;
  tell(l, &e->turn, turn);
}

/* ---------------------------------------------------------------- waiting */

/* Numbers go round after 2^32. */
static bool reached(_Atomic uint32_t *word, uint32_t value) {
  return (int32_t)(atomic_load_explicit(word, memory_order_acquire) - value) >= 0;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

/* Asleep until rank tells something, or for a while, after which limits are looked at. */
static void sleep_on(ds_cpu_local *l, int rank, _Atomic uint32_t *word, uint32_t value,
                     int64_t most_ns) {
  enum { SLICE_NS = 10000000 };
  struct timespec slice = {0, (long)(most_ns < SLICE_NS ? most_ns : SLICE_NS)};
  atomic_fetch_add(&l->member[rank].sleepers.value, 1);
  uint32_t now = atomic_load(word);
  if ((int32_t)(now - value) < 0) syscall(SYS_futex, word, FUTEX_WAIT, now, &slice, NULL, 0);
  atomic_fetch_sub(&l->member[rank].sleepers.value, 1);
}

static bool is_gone(const ds_cpu_local *l, int rank) {
  return kill(l->pid[rank], 0) != 0 && errno == ESRCH;
}

/* Whether rank will never tell anything more. */
static bool is_over(const ds_cpu_local *l, int rank) {
  return atomic_load(&l->member[rank].lost.value) != 0 || is_gone(l, rank);
}

static ds_status await_slowly(ds_cpu_local *l, int rank, _Atomic uint32_t *word, uint32_t value,
                              const ds_cpu_limit *limit) {
  enum { SPIN_NS = 20000, LONG_SPIN_NS = 300000, LOOKS = 50, LOOK_NS = 5000000 };
  int64_t begin = ds_cpu_now_ns(), now = begin;
  int64_t spin = limit->host_waits && !l->crowded ? LONG_SPIN_NS : SPIN_NS;
  ds_status st = DS_OK;
  if (!ds_cpu_mpi_begin_wait()) return DS_ERR_ABORTED;
  while (st == DS_OK && !reached(word, value)) {
    if (limit->aborted != NULL && atomic_load(limit->aborted)) st = DS_ERR_ABORTED;
    if (ds_cpu_mpi_closing()) st = DS_ERR_ABORTED;
    if (limit->deadline_ns != 0 && now > limit->deadline_ns) st = DS_ERR_TIMEOUT;
    if (st != DS_OK) break;
    if (now - begin > LOOK_NS && is_over(l, rank) && !reached(word, value)) {
      st = DS_ERR_TIMEOUT;
      break;
    }
    if (now - begin < spin && l->crowded)
      (void)sched_yield();
    else if (now - begin < spin)
      for (int i = 0; i < LOOKS && !reached(word, value); i++) relax();
    else
      sleep_on(l, rank, word, value,
               limit->deadline_ns != 0 ? limit->deadline_ns - now + 1000 : INT64_MAX);
    now = ds_cpu_now_ns();
  }
  ds_cpu_mpi_end_wait();
  if (st == DS_ERR_TIMEOUT && limit->seen != NULL) limit->seen[rank] |= DS_CPU_AWAITED;
  return st;
}

static ds_status await(ds_cpu_local *l, int rank, _Atomic uint32_t *word, uint32_t value,
                       const ds_cpu_limit *limit) {
  enum { LOOKS = 200 };
  for (int i = 0; i < (l->crowded ? 1 : LOOKS); i++) {
    if (reached(word, value)) return DS_OK;
    relax();
  }
  return await_slowly(l, rank, word, value, limit);
}

static _Atomic uint32_t *arrival(ds_cpu_local *l, int rank, uint32_t turn) {
  return &l->member[rank].ring[turn % DS_CPU_LOCAL_RING].turn;
}

ds_status ds_cpu_local_await_turn(ds_cpu_local *l, int rank, const ds_cpu_limit *limit) {
  return await(l, rank, arrival(l, rank, l->turn), l->turn, limit);
}

ds_status ds_cpu_local_await_pieces(ds_cpu_local *l, int rank, uint32_t pieces,
                                    const ds_cpu_limit *limit) {
  return await(l, rank, &l->member[rank].pieces.value, pieces, limit);
}

ds_status ds_cpu_local_await_done(ds_cpu_local *l, int rank, const ds_cpu_limit *limit) {
  return await(l, rank, &l->member[rank].done.value, l->turn, limit);
}

ds_status ds_cpu_local_await(ds_cpu_local *l, int rank, ds_cpu_local_word *word, uint32_t value,
                             const ds_cpu_limit *limit) {
  return await(l, rank, &word->value, value, limit);
}

ds_status ds_cpu_local_check(ds_cpu_local *l, int rank, const ds_cpu_limit *limit) {
  enum { NEVER = 2 };
  ds_status st = DS_OK;
  int end = rank < 0 ? l->size : rank + 1;
  for (int r = rank < 0 ? 0 : rank; r < end && st == DS_OK; r++)
    if (atomic_load(&l->member[r].lost.value) != 0)
      st = await(l, r, &l->member[r].lost.value, NEVER, limit);
  return st;
}

/* The turn at which all must have arrived before the next one's entry may be written. */
static uint32_t needed(const ds_cpu_local *l) {
  return l->turn + 1 - (DS_CPU_LOCAL_RING - 1);
}

bool ds_cpu_local_may_arrive(ds_cpu_local *l) {
  uint32_t turn = needed(l);
  if ((int32_t)(l->seen - turn) >= 0) return true;
  for (int r = 0; r < l->size; r++)
    if (!reached(arrival(l, r, turn), turn)) return false;
  l->seen = turn;
  return true;
}

ds_status ds_cpu_local_await_room(ds_cpu_local *l, const ds_cpu_limit *limit) {
  uint32_t turn = needed(l);
  ds_status st = DS_OK;
  if ((int32_t)(l->seen - turn) >= 0) return DS_OK;
  for (int r = 0; r < l->size && st == DS_OK; r++)
    st = await(l, r, arrival(l, r, turn), turn, limit);
  if (st == DS_OK) l->seen = turn;
  return st;
}

bool ds_cpu_local_soon(ds_cpu_local *l, int rank) {
  enum { LOOKS = 200 };
  int there = rank < 0 ? 0 : rank, end = rank < 0 ? l->size : rank + 1;
  for (int i = 0; i < (l->crowded ? 1 : LOOKS) && there < end; i++) {
    while (there < end && reached(arrival(l, there, l->turn), l->turn)) there++;
    if (there < end) relax();
  }
  return there == end;
}

/* ---------------------------------------------------------------- looking */

/* The letter of its state: R, S, T (stopped), Z (ended and not yet buried) and so on; 0: there is no
 * such process. */
static char state_of(int pid) {
  char path[32], text[512];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT ? 0 : '?';
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  text[n > 0 ? n : 0] = '\0';
  const char *name_end = strrchr(text, ')'); /* a name may have any sign in it */
  return name_end != NULL && name_end[1] == ' ' ? name_end[2] : n > 0 ? '?' : 0;
}

void ds_cpu_local_look(ds_cpu_local *l, unsigned char *seen) {
  for (int r = 0; r < l->size; r++) {
    if (r == l->rank) continue;
    char state = state_of(l->pid[r]);
    if (reached(arrival(l, r, l->turn), l->turn)) seen[r] |= DS_CPU_CAME;
    if (atomic_load(&l->member[r].lost.value) != 0) seen[r] |= DS_CPU_HEARD;
    if (state == 'T' || state == 't') seen[r] |= DS_CPU_STOPPED;
    if (state == 0 || state == 'Z' || state == 'X') seen[r] |= DS_CPU_ENDED;
  }
}

/* ---------------------------------------------------------------- reading */

ds_status ds_cpu_local_read(const ds_cpu_local *l, int rank, void *to, const void *from,
                            size_t bytes, ds_error *err) {
  for (size_t at = 0; at < bytes;) {
    struct iovec mine = {(char *)to + at, bytes - at}, theirs = {(char *)from + at, bytes - at};
    ssize_t n = process_vm_readv(l->pid[rank], &mine, 1, &theirs, 1, 0);
    if (n <= 0)
      return ds_cpu_fail(err, DS_ERR_DEVICE,
                         "cpu comm: can't read from rank %d (process %d), which has ended or given "
                         "its memory back: %s",
                         rank, l->pid[rank], n < 0 ? strerror(errno) : "nothing there");
    at += (size_t)n;
  }
  return DS_OK;
}
