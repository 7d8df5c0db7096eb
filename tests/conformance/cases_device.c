/* cases_device.c - what the device table and the ops table promise besides arithmetic. */
#include "suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void open_errors(conformance *k, tally *t) {
  const ds_device_table *d = k->plugin->device;
  ds_device *dev = NULL;
  ds_error err = check_error_new();
  ds_status st = d->open(-1, NULL, &dev, &err);
  NEED(check_explained(st, &err), "open of index -1 gave %d \"%.200s\"", (int)st,
       check_text(st, &err));
  err = check_error_new();
  st = d->open(1 << 20, NULL, &dev, &err);
  NEED(check_explained(st, &err), "open of index 2^20 gave %d \"%.200s\"", (int)st,
       check_text(st, &err));
  err = check_error_new();
  st = d->open(0, "{\"no_such_option\": 1}", &dev, &err);
  NEED(st == DS_ERR_INVALID && check_explained(st, &err) && strstr(err.message, "no_such_option"),
       "open with an unknown option must be DS_ERR_INVALID and name it; it gave %d \"%.200s\"",
       (int)st, check_text(st, &err));
  err = check_error_new();
  st = d->open(0, "{", &dev, &err);
  NEED(check_explained(st, &err), "open with options \"{\" gave %d \"%.200s\"", (int)st,
       check_text(st, &err));
  NEED(d->open(-1, NULL, &dev, NULL) != DS_OK, "open of index -1 without err succeeded");
  st = d->open(0, "{}", &dev, &err);
  NEED(st == DS_OK, "open of a second device 0 with options {} gave %d \"%.200s\"", (int)st,
       check_text(st, &err));
  d->close(dev);
  d->close(NULL);
}

static void describes_itself(conformance *k, tally *t) {
  ds_device_info info = {.size = sizeof info};
  ds_error err = check_error_new();
  NEED(k->plugin->name && k->plugin->name[0] && k->plugin->version && k->plugin->description,
       "name, version and description must be set");
  NEED(k->plugin->base.size >= offsetof(ds_plugin, ops), "the plugin table's size is too small");
  NEED(k->plugin->device->info(k->dev, &info, &err) == DS_OK, "info: %s", err.message);
  NEED(info.size > 0 && info.size <= sizeof info, "info.size is %u", info.size);
  NEED(memchr(info.name, 0, sizeof info.name) && info.name[0], "the device has no name");
  struct {
    ds_device_info info;
    unsigned char after[64];
  } small;
  memset(&small, 0x5a, sizeof small);
  small.info.size = offsetof(ds_device_info, memory_total); /* as an older core knows it */
  NEED(k->plugin->device->info(k->dev, &small.info, &err) == DS_OK, "short info: %s", err.message);
  const unsigned char *bytes = (const unsigned char *)&small;
  for (size_t i = offsetof(ds_device_info, memory_total); i < sizeof small; i++)
    NEED(bytes[i] == 0x5a, "info wrote past the size the caller gave");
}

static void allocations(conformance *k, tally *t) {
  enum { COUNT = 64 };
  void *p[COUNT] = {0};
  ds_error err = check_error_new();
  bool aligned = true;
  ds_status st = DS_OK;
  for (int i = 0; i < COUNT && st == DS_OK; i++) {
    st = k->plugin->device->alloc(k->dev, (size_t)(1 + i * 97), &p[i], &err);
    aligned = aligned && (uintptr_t)p[i] % 64 == 0 && (st != DS_OK || p[i]);
  }
  for (int i = 0; i < COUNT; i++) k->plugin->device->free(k->dev, p[i]);
  k->plugin->device->free(k->dev, NULL);
  NEED(st == DS_OK, "alloc: %s", err.message);
  NEED(aligned, "alloc gave an address that is not 64-byte aligned");
  void *none = NULL;
  st = k->plugin->device->alloc(k->dev, SIZE_MAX / 2, &none, &err);
  NEED(st == DS_ERR_MEMORY && check_explained(st, &err), "alloc of 2^63 bytes gave %d \"%.200s\"",
       (int)st, check_text(st, &err));
}

/* As core does without a copy of the plugin's. */
static ds_status copy(conformance *k, void *dst, const void *src, size_t bytes, ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  if (d->copy) return d->copy(k->stream, dst, src, bytes, err);
  void *host = malloc(bytes + 1);
  ds_status st = host ? d->download(k->stream, host, src, bytes, err) : DS_ERR_MEMORY;
  if (st == DS_OK) st = d->upload(k->stream, dst, host, bytes, err);
  free(host);
  return st;
}

static ds_status fill(conformance *k, ds_stream *s, void *dst, uint8_t byte, size_t bytes,
                      ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  if (d->fill) return d->fill(s, dst, byte, bytes, err);
  void *host = malloc(bytes + 1);
  if (host) memset(host, byte, bytes);
  ds_status st = host ? d->upload(s, dst, host, bytes, err) : DS_ERR_MEMORY;
  free(host);
  return st;
}

/* upload, copy, fill, download at odd places and sizes, in stream order. */
static void transfers(conformance *k, tally *t) {
  enum { BYTES = 70001 };
  const ds_device_table *d = k->plugin->device;
  unsigned char *host = malloc(2 * BYTES), *back = host ? host + BYTES : NULL;
  guarded a, b;
  ds_error err = check_error_new();
  if (!host || !check_make(k, &a, BYTES, t)) {
    free(host);
    return;
  }
  if (!check_make(k, &b, BYTES, t) || !check_upload(k, &b, t)) goto out;
  for (int i = 0; i < BYTES; i++) host[i] = (unsigned char)(i * 7 + i / 251);
  ds_status st = d->upload(k->stream, GUARDED_AT(&a, 0), host, BYTES, &err);
  memset(host, 0, BYTES); /* the source is free again */
  if (!st) st = copy(k, GUARDED_AT(&b, 3), GUARDED_AT(&a, 1), BYTES - 5, &err);
  if (!st) st = fill(k, k->stream, GUARDED_AT(&a, 0), 0xee, BYTES, &err);
  if (!st) st = fill(k, k->stream, GUARDED_AT(&b, 100), 0x11, 77, &err);
  if (!st) st = d->upload(k->stream, GUARDED_AT(&b, 7), "abc", 3, &err);
  if (!st) st = d->download(k->stream, back, GUARDED_AT(&b, 0), BYTES, &err);
  if (st) check_fail(t, "a transfer gave %d \"%.200s\"", (int)st, check_text(st, &err));
  for (int i = 3; i < BYTES - 2 && !st; i++) {
    unsigned char want = (unsigned char)((i - 2) * 7 + (i - 2) / 251);
    if (i >= 100 && i < 177) want = 0x11;
    if (i >= 7 && i < 10) want = (unsigned char)"abc"[i - 7];
    if (back[i] == want) continue;
    check_fail(t, "after upload, copy, fill: byte %d is %d, expected %d", i, back[i], want);
    break;
  }
  if (!st && (back[0] != b.image[GUARD] || back[BYTES - 1] != b.image[GUARD + BYTES - 1]))
    check_fail(t, "copy wrote more than it was told");
out:
  check_drop(k, &a);
  check_drop(k, &b);
  free(host);
}

static void nothing_to_do(conformance *k, tally *t) {
  const ds_device_table *d = k->plugin->device;
  void *p = NULL;
  ds_error err = check_error_new();
  unsigned char byte = 7;
  NEED(d->alloc(k->dev, 64, &p, &err) == DS_OK, "alloc: %s", err.message);
  bool ok = d->upload(k->stream, p, &byte, 0, &err) == DS_OK &&
            copy(k, p, (char *)p + 8, 0, &err) == DS_OK &&
            fill(k, k->stream, p, 1, 0, &err) == DS_OK &&
            d->download(k->stream, &byte, p, 0, &err) == DS_OK;
  d->free(k->dev, p);
  NEED(ok, "a transfer of 0 bytes failed: %s", err.message);
  NEED(byte == 7, "a download of 0 bytes wrote");
}

static void streams_and_events(conformance *k, tally *t) {
  const ds_device_table *d = k->plugin->device;
  bool all =
      d->event_create && d->event_destroy && d->event_record && d->event_wait && d->event_sync;
  bool none =
      !d->event_create && !d->event_destroy && !d->event_record && !d->event_wait && !d->event_sync;
  NEED(all || none, "events must be given all or not at all");
  ds_stream *second = NULL;
  ds_event *e = NULL;
  ds_error err = check_error_new();
  enum { BYTES = 1 << 20 };
  static unsigned char back[BYTES];
  guarded a;
  if (!check_make(k, &a, BYTES, t)) return;
  ds_status st = d->stream_create(k->dev, &second, &err);
  if (!st && all) st = d->event_create(k->dev, &e, &err);
  if (!st && e) st = d->event_sync(e, &err); /* never recorded: nothing to wait for */
  if (!st && e) st = d->event_wait(e, second, &err);
  for (int round = 0; round < 8 && !st; round++) {
    st = fill(k, k->stream, GUARDED_AT(&a, 0), (uint8_t)(2 * round), BYTES, &err);
    if (!st && e) st = d->event_record(e, k->stream, &err);
    if (!st && e && round % 2) st = d->event_sync(e, &err);
    if (!st && e) st = d->event_wait(e, second, &err);
    if (!st && !e) st = d->stream_sync(k->stream, &err);
    if (!st) st = fill(k, second, GUARDED_AT(&a, 0), (uint8_t)(2 * round + 1), BYTES / 2, &err);
    if (!st) st = d->download(second, back, GUARDED_AT(&a, 0), BYTES, &err);
    for (int i = 0; i < BYTES && !st; i++)
      if (back[i] != 2 * round + (i < BYTES / 2)) {
        check_fail(t, "work of two streams ordered by an event came in the wrong order");
        break;
      }
  }
  if (!st) st = d->stream_sync(second, &err);
  if (e) d->event_destroy(e);
  if (second) d->stream_destroy(second);
  check_drop(k, &a);
  NEED(st == DS_OK, "streams and events gave %d \"%.200s\"", (int)st, check_text(st, &err));
}

/* Ops that do not exist, and scratch that stays small however long the sequence. */
static void ops_table_manners(conformance *k, tally *t) {
  const ds_ops_table *ops = k->plugin->ops;
  if (!ops) {
    t->unsupported++;
    return;
  }
  ds_op op = {.size = sizeof op, .id = 9999};
  ds_error err = check_error_new();
  NEED(!ops->supports(k->dev, &op), "supports() takes an op that does not exist");
  ds_status st = ops->run(k->stream, &op, &err);
  NEED(check_explained(st, &err), "running op 9999 gave %d \"%.200s\"", (int)st,
       check_text(st, &err));
  enum { LONG = 65536 };
  ds_tensor q = {
      .dtype = DS_F32, .rank = 4, .shape = {1, LONG, 1, 64}, .stride = {LONG * 64, 64, 64, 1}};
  ds_tensor lse = {.dtype = DS_F32, .rank = 3, .shape = {1, 1, LONG}, .stride = {LONG, LONG, 1}};
  const ds_tensor *in[] = {&q, &q, &q}, *out[] = {&q, &lse};
  const ds_tensor *in_back[] = {&q, &q, &q, &q, &q, &lse}, *out_back[] = {&q, &q, &q};
  ds_op attention = {
      .size = sizeof op, .id = DS_OP_ATTENTION, .n_in = 3, .n_out = 2, .in = in, .out = out};
  ds_op backward = {.size = sizeof op,
                    .id = DS_OP_ATTENTION_BACKWARD,
                    .n_in = 6,
                    .n_out = 3,
                    .in = in_back,
                    .out = out_back};
  const size_t matrix = (size_t)LONG * LONG * 2;
  bool asks = DS_HAS(ops, workspace) && ops->workspace;
  NEED(!asks || !ops->supports(k->dev, &attention) || ops->workspace(k->dev, &attention) < matrix,
       "attention asks for scratch the size of the T x S matrix");
  NEED(!asks || !ops->supports(k->dev, &backward) || ops->workspace(k->dev, &backward) < matrix,
       "attention_backward asks for scratch the size of the T x S matrix");
}

UNIT_OF(open_errors, "open")
UNIT_OF(describes_itself, "describe")
UNIT_OF(allocations, "alloc")
UNIT_OF(transfers, "transfer")
UNIT_OF(nothing_to_do, "zero-bytes")
UNIT_OF(streams_and_events, "streams")
UNIT_OF(ops_table_manners, "ops-table")

const unit device_units[] = {{"open", unit_open_errors, NEEDS_DEVICE, false},
                             {"describe", unit_describes_itself, NEEDS_DEVICE, false},
                             {"alloc", unit_allocations, NEEDS_DEVICE, false},
                             {"transfer", unit_transfers, NEEDS_DEVICE, false},
                             {"zero-bytes", unit_nothing_to_do, NEEDS_DEVICE, false},
                             {"streams", unit_streams_and_events, NEEDS_DEVICE, false},
                             {"ops-table", unit_ops_table_manners, NEEDS_DEVICE, false},
                             {0}};
