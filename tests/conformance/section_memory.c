/* section_memory.c - what a device table may have since 0.10: memory of the host, memory in the order of
 * a stream, copies between devices. Units of section device. */
#include "suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES = 70001 };

static unsigned char value(int seed, int i) {
  return (unsigned char)(i * 7 + i / 251 + seed * 31);
}

/* ---------------------------------------------------------------- memory of the host */

static void host_allocations(conformance *k, tally *t) {
  enum { COUNT = 32 };
  const ds_device_table *d = k->plugin->device;
  unsigned char *p[COUNT] = {NULL};
  ds_error err = check_error_new();
  ds_status st = DS_OK;
  bool aligned = true, kept = true;
  for (int i = 0; i < COUNT && st == DS_OK; i++) {
    void *at = NULL;
    st = d->host_alloc(k->dev, (size_t)(1 + i * 97), &at, &err);
    if (st != DS_OK) break;
    p[i] = at;
    aligned = aligned && at && (uintptr_t)at % 64 == 0;
    memset(at, i, (size_t)(1 + i * 97));
  }
  for (int i = 0; i < COUNT && st == DS_OK; i++)
    for (int b = 0; b < 1 + i * 97; b++) kept = kept && p[i][b] == i;
  for (int i = 0; i < COUNT; i++) d->host_free(k->dev, p[i]);
  d->host_free(k->dev, NULL);
  NEED(st == DS_OK, "host_alloc: %.300s", check_text(st, &err));
  NEED(aligned, "host_alloc gave an address that is not 64-byte aligned");
  NEED(kept, "memory of host_alloc does not keep what the host wrote, or overlaps");
  void *none = NULL;
  st = d->host_alloc(k->dev, SIZE_MAX / 2, &none, &err);
  NEED(st == DS_ERR_MEMORY && check_explained(st, &err),
       "host_alloc of 2^63 bytes gave %d \"%.200s\"; wanted DS_ERR_MEMORY", (int)st,
       check_text(st, &err));
  err = check_error_new();
  st = d->host_alloc(k->dev, 0, &none, &err);
  NEED(check_explained(st, &err), "host_alloc of 0 bytes gave %d \"%.200s\"", (int)st,
       check_text(st, &err));
}

/* Up, overwritten up, down from both, all before anybody waits. */
static ds_status round_trip(conformance *k, const guarded *a, unsigned char *const host[4],
                            ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  char *device = GUARDED_AT(a, 0);
  ds_status st = d->upload_async(k->stream, device, host[0], BYTES, err);
  if (!st) st = d->download_async(k->stream, host[2] + 1, device + 3, BYTES - 6, err);
  if (!st) st = d->upload_async(k->stream, device + 5, host[1] + 1, 101, err);
  if (!st) st = d->upload_async(k->stream, device, host[1], 0, err);
  if (!st) st = d->download_async(k->stream, host[3], device, 0, err);
  if (!st) st = d->download_async(k->stream, host[3], device, BYTES, err);
  return st ? st : d->stream_sync(k->stream, err);
}

static void check_trip(int seed, unsigned char *const host[4], tally *t) {
  for (int i = 0; i < BYTES - 6; i++)
    NEED(host[2][1 + i] == value(seed, i + 3), "download_async: byte %d is %d, expected %d", i,
         host[2][1 + i], value(seed, i + 3));
  for (int i = 0; i < BYTES; i++) {
    int want = i >= 5 && i < 106 ? value(seed + 1, i - 4) : value(seed, i);
    NEED(host[3][i] == want, "upload_async, upload_async, download_async: byte %d is %d, not %d", i,
         host[3][i], want);
  }
  NEED(host[2][0] == 0x5a && host[2][BYTES - 5] == 0x5a,
       "download_async wrote more than it was told");
}

static void async_transfers(conformance *k, tally *t) {
  const ds_device_table *d = k->plugin->device;
  unsigned char *host[4] = {NULL};
  ds_error err = check_error_new();
  guarded a;
  ds_status st = DS_OK;
  if (!check_make(k, &a, BYTES, t)) return;
  for (int i = 0; i < 4 && st == DS_OK; i++) {
    void *p = NULL;
    st = d->host_alloc(k->dev, BYTES, &p, &err);
    if (st == DS_OK) host[i] = p;
  }
  for (int round = 0; round < 4 && st == DS_OK && !t->failed; round++) {
    for (int i = 0; i < BYTES; i++) {
      host[0][i] = value(round, i);
      host[1][i] = value(round + 1, i);
    }
    memset(host[2], 0x5a, BYTES);
    memset(host[3], 0x5a, BYTES);
    st = round_trip(k, &a, host, &err);
    if (st == DS_OK) check_trip(round, host, t);
  }
  for (int i = 0; i < 4; i++) d->host_free(k->dev, host[i]);
  check_drop(k, &a);
  NEED(st == DS_OK, "asynchronous transfers gave %d \"%.200s\"", (int)st, check_text(st, &err));
}

static void host_memory(conformance *k, tally *t) {
  if (!k->plugin->device->host_alloc) {
    check_unsupported(t, "the plugin has no host_alloc and what belongs to it");
    return;
  }
  host_allocations(k, t);
  if (!t->failed) async_transfers(k, t);
}

/* ---------------------------------------------------------------- memory of a stream */

/* What lies there when a stream wrote it and the same, or another that waits for it, reads it. */
static ds_status use(conformance *k, ds_stream *writer, ds_stream *reader, ds_event *e, void *p,
                     size_t bytes, unsigned char *host, ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  ds_status st = d->upload(writer, p, host, bytes, err);
  memset(host, 0, bytes);
  if (!st && e) st = d->event_record(e, writer, err);
  if (!st && e) st = d->event_wait(e, reader, err);
  if (!st) st = d->download(reader, host, p, bytes, err);
  return st;
}

static void stream_rounds(conformance *k, ds_stream *other, ds_event *e, tally *t) {
  static unsigned char host[1 << 16];
  const ds_device_table *d = k->plugin->device;
  ds_error err = check_error_new();
  for (int round = 0; round < 40; round++) {
    size_t bytes = round % 8 == 7 ? sizeof host : (size_t)(1 + round * 613);
    void *p = NULL;
    bool crosses = e && round % 3 == 1;
    for (size_t i = 0; i < bytes; i++) host[i] = value(round, (int)i);
    bool plain = round % 5 == 4; /* of alloc, or to free */
    ds_status st = plain && round % 2 ? d->alloc(k->dev, bytes, &p, &err)
                                      : d->stream_alloc(k->stream, bytes, &p, &err);
    NEED(st == DS_OK, "stream_alloc: %.300s", check_text(st, &err));
    NEED((uintptr_t)p % 64 == 0, "stream_alloc gave an address that is not 64-byte aligned");
    st = use(k, k->stream, crosses ? other : k->stream, crosses ? e : NULL, p, bytes, host, &err);
    NEED(st == DS_OK, "work on memory of stream_alloc: %.300s", check_text(st, &err));
    for (size_t i = 0; i < bytes; i++)
      NEED(host[i] == value(round, (int)i), "memory of stream_alloc: byte %zu is %d, not %d", i,
           host[i], value(round, (int)i));
    if (crosses) st = d->event_record(e, other, &err);
    if (crosses && !st) st = d->event_wait(e, k->stream, &err);
    if (plain && round % 2 == 0) {
      if (!st) st = d->stream_sync(k->stream, &err);
      d->free(k->dev, p);
    } else if (!st) {
      st = d->stream_free(k->stream, p, &err);
    }
    NEED(st == DS_OK, "stream_free: %.300s", check_text(st, &err));
  }
}

static void stream_memory(conformance *k, tally *t) {
  const ds_device_table *d = k->plugin->device;
  ds_stream *other = NULL;
  ds_event *e = NULL;
  void *none = NULL;
  ds_error err = check_error_new();
  if (!d->stream_alloc) {
    check_unsupported(t, "the plugin has no stream_alloc");
    return;
  }
  ds_status st = d->stream_create(k->dev, &other, &err);
  if (!st && d->event_create) st = d->event_create(k->dev, &e, &err);
  if (!st) stream_rounds(k, other, e, t);
  if (e) d->event_destroy(e);
  if (other) d->stream_destroy(other);
  NEED(st == DS_OK, "%.300s", check_text(st, &err));
  if (t->failed) return;
  st = d->stream_free(k->stream, NULL, &err);
  NEED(st == DS_OK, "stream_free of NULL: %.300s", check_text(st, &err));
  err = check_error_new();
  st = d->stream_alloc(k->stream, SIZE_MAX / 2, &none, &err);
  NEED(st == DS_ERR_MEMORY && check_explained(st, &err),
       "stream_alloc of 2^63 bytes gave %d \"%.200s\"; wanted DS_ERR_MEMORY", (int)st,
       check_text(st, &err));
  st = d->stream_sync(k->stream, &err);
  NEED(st == DS_OK, "memory that is not there killed the stream: %.300s", check_text(st, &err));
}

/* ---------------------------------------------------------------- between devices */

typedef struct peer {
  ds_device *dev;
  ds_stream *stream;
  char *memory; /* BYTES */
} peer;

static ds_status peer_open(conformance *k, peer *p, int32_t index, ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  void *memory = NULL;
  ds_status st = d->open(index, k->options, &p->dev, err);
  if (!st) st = d->stream_create(p->dev, &p->stream, err);
  if (!st) st = d->alloc(p->dev, BYTES, &memory, err);
  if (!st) p->memory = memory;
  return st;
}

static void peer_close(conformance *k, peer *p) {
  const ds_device_table *d = k->plugin->device;
  d->stream_destroy(p->stream);
  if (p->memory) d->free(p->dev, p->memory);
  d->close(p->dev);
}

/* Bytes go from one to the other, on a stream of either, after what was given to it. */
static ds_status peer_move(conformance *k, peer *from, peer *to, bool on_target, int seed,
                           unsigned char *host, ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  peer *owner = on_target ? to : from;
  memset(host, 0x5a, BYTES);
  ds_status st = d->upload(to->stream, to->memory, host, BYTES, err);
  for (int i = 0; i < BYTES; i++) host[i] = value(seed, i);
  if (!st) st = d->upload(from->stream, from->memory, host, BYTES, err);
  if (!st) st = d->stream_sync(to->stream, err);
  if (!st && on_target) st = d->stream_sync(from->stream, err);
  if (!st)
    st = d->peer_copy(owner->stream, to->dev, to->memory + 3, from->dev, from->memory + 1,
                      BYTES - 10, err);
  if (!st) st = d->peer_copy(owner->stream, to->dev, to->memory, from->dev, from->memory, 0, err);
  if (!st) st = d->stream_sync(owner->stream, err);
  return st ? st : d->download(to->stream, host, to->memory, BYTES, err);
}

static void peer_copies(conformance *k, tally *t) {
  static unsigned char host[BYTES];
  const char *reason = NULL;
  int32_t count = 1;
  peer a = {0}, b = {0};
  ds_error err = check_error_new();
  if (!k->plugin->device->peer_copy) {
    check_unsupported(t, "the plugin has no peer_copy");
    return;
  }
  ds_status st = k->plugin->device->count(&count, &reason, &err);
  if (!st) st = peer_open(k, &a, 0, &err);
  if (!st) st = peer_open(k, &b, count > 1 ? 1 : 0, &err);
  for (int round = 0; round < 4 && !st && !t->failed; round++) {
    st = peer_move(k, round & 1 ? &b : &a, round & 1 ? &a : &b, round & 2, round, host, &err);
    if (st) break;
    for (int i = 0; i < BYTES && !t->failed; i++) {
      int want = i >= 3 && i < BYTES - 7 ? value(round, i - 2) : 0x5a;
      if (host[i] != want) check_fail(t, "peer_copy: byte %d is %d, expected %d", i, host[i], want);
    }
  }
  peer_close(k, &a);
  peer_close(k, &b);
  if (st == DS_ERR_UNSUPPORTED)
    check_unsupported(t, "%.300s", check_text(st, &err));
  else if (st)
    check_fail(t, "peer_copy gave %d \"%.300s\"", (int)st, check_text(st, &err));
}

UNIT_OF(host_memory, "host-memory")
UNIT_OF(stream_memory, "stream-memory")
UNIT_OF(peer_copies, "peer-copy")

const unit memory_units[] = {{"host-memory", unit_host_memory, NEEDS_DEVICE, false},
                             {"stream-memory", unit_stream_memory, NEEDS_DEVICE, false},
                             {"peer-copy", unit_peer_copies, NEEDS_DEVICE, false},
                             {0}};
