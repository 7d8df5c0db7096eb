/* section_lifetime.c - what is opened and closed leaves nothing behind, in any order. */
#include "usage.h"
#include "work.h"

#include <stdio.h>
#include <string.h>

static float result[WORK_N * WORK_N], alone[WORK_N * WORK_N];

static bool same(const float *a, const float *b) {
  return memcmp(a, b, WORK_BYTES) == 0;
}

/* Opens, works on two streams, records an event, closes. */
static bool cycle(conformance *k, int i, tally *t) {
  const ds_device_table *d = k->plugin->device;
  ds_device *dev = NULL;
  ds_stream *s[2] = {NULL, NULL};
  ds_event *e = NULL;
  ds_error err;
  check_doing(k, "open, work and close, round %d", i);
  ds_status st = d->open(0, k->options, &dev, &err);
  if (st != DS_OK) {
    check_fail(t, "open in round %d: %.300s", i, err.message);
    return false;
  }
  for (int n = 0; n < 2 && st == DS_OK; n++) st = d->stream_create(dev, &s[n], &err);
  for (int n = 0; n < 2 && st == DS_OK; n++) st = work_on(k, dev, s[n], k->seed, result, &err);
  if (st == DS_OK && d->event_create) st = d->event_create(dev, &e, &err);
  if (st == DS_OK && e) st = d->event_record(e, s[0], &err);
  if (st == DS_OK && e) st = d->event_sync(e, &err);
  if (st != DS_OK) check_fail(t, "work in round %d: %.300s", i, err.message);
  if (e) d->event_destroy(e);
  for (int n = 0; n < 2; n++)
    if (s[n]) d->stream_destroy(s[n]);
  d->close(dev);
  return st == DS_OK;
}

static void cycles(conformance *k, tally *t) {
  usage_flat(k, 20, 50, cycle, t);
}

/* Refused opens leave nothing either. */
static bool refused(conformance *k, int i, tally *t) {
  ds_device *dev = NULL;
  ds_error err;
  (void)i;
  if (k->plugin->device->open(0, "{\"no_such_option\": 1}", &dev, &err) != DS_OK &&
      k->plugin->device->open(-1, NULL, &dev, &err) != DS_OK)
    return true;
  check_fail(t, "open with an unknown option, or of device -1, succeeded");
  return false;
}

static void refusals(conformance *k, tally *t) {
  usage_flat(k, 20, 50, refused, t);
}

static void devices(conformance *k, tally *t) {
  enum { COUNT = 4 };
  static const int order[COUNT] = {2, 0, 3, 1};
  const ds_device_table *d = k->plugin->device;
  ds_device *dev[COUNT] = {NULL};
  ds_stream *s[COUNT] = {NULL};
  ds_error err;
  ds_status st = work_on(k, k->dev, k->stream, k->seed, alone, &err);
  for (int i = 0; i < COUNT && st == DS_OK; i++) {
    st = d->open(0, k->options, &dev[i], &err);
    if (st == DS_OK) st = d->stream_create(dev[i], &s[i], &err);
  }
  for (int round = 0; round < COUNT && st == DS_OK; round++) {
    for (int i = 0; i < COUNT && st == DS_OK; i++) {
      if (!dev[i]) continue;
      st = work_on(k, dev[i], s[i], k->seed, result, &err);
      if (st == DS_OK && !same(result, alone))
        check_fail(t, "a device beside others gives other bits than one alone");
    }
    int gone = order[round];
    d->stream_destroy(s[gone]);
    d->close(dev[gone]);
    dev[gone] = NULL;
    s[gone] = NULL;
  }
  if (st != DS_OK) check_fail(t, "with %d devices open at once: %.300s", COUNT, err.message);
  for (int i = 0; i < COUNT; i++) {
    if (s[i]) d->stream_destroy(s[i]);
    if (dev[i]) d->close(dev[i]);
  }
  if (!t->failed && work_on(k, k->dev, k->stream, k->seed, result, &err) != DS_OK)
    check_fail(t, "after other devices were closed, the first: %.300s", err.message);
}

static void streams(conformance *k, tally *t) {
  enum { COUNT = 6 };
  static const int order[COUNT] = {3, 0, 5, 1, 4, 2};
  const ds_device_table *d = k->plugin->device;
  ds_stream *s[COUNT] = {NULL};
  ds_error err;
  ds_status st = work_on(k, k->dev, k->stream, k->seed, alone, &err);
  for (int i = 0; i < COUNT && st == DS_OK; i++) st = d->stream_create(k->dev, &s[i], &err);
  for (int gone = 0; gone < COUNT && st == DS_OK; gone++) {
    for (int i = gone; i < COUNT && st == DS_OK; i++) {
      st = work_on(k, k->dev, s[order[i]], k->seed, result, &err);
      if (st == DS_OK && !same(result, alone))
        check_fail(t, "a stream beside others gives other bits than one alone");
    }
    d->stream_destroy(s[order[gone]]);
    s[order[gone]] = NULL;
  }
  if (st != DS_OK) check_fail(t, "%d streams: %.300s", COUNT, err.message);
  for (int i = 0; i < COUNT; i++)
    if (s[i]) d->stream_destroy(s[i]);
}

/* Streams that end while their work may not be done: stream_destroy waits, so that memory may be
 * given back after it; then the device ends. */
static void in_flight(conformance *k, tally *t) {
  const ds_device_table *d = k->plugin->device;
  static const float zeros[WORK_N * WORK_N];
  for (int round = 0; round < 5; round++) {
    ds_device *dev = NULL;
    ds_stream *s = NULL, *last = NULL;
    work w = {0};
    ds_error err;
    check_doing(k, "destroying a stream with work in flight, round %d", round);
    NEED(d->open(0, k->options, &dev, &err) == DS_OK, "open: %.300s", err.message);
    ds_status st = d->stream_create(dev, &s, &err);
    if (st == DS_OK) st = work_init(k, &w, dev, &err);
    if (st == DS_OK) st = d->upload(s, w.a, zeros, WORK_BYTES, &err);
    if (st == DS_OK) st = d->upload(s, w.b, zeros, WORK_BYTES, &err);
    for (int i = 0; i < 20 && st == DS_OK; i++) st = work_launch(k, &w, s, &err);
    if (s) d->stream_destroy(s);
    if (st == DS_OK) st = d->stream_create(dev, &last, &err);
    if (st == DS_OK) st = d->stream_sync(last, &err);
    work_finish(k, &w);
    if (last) d->stream_destroy(last);
    d->close(dev);
    NEED(st == DS_OK, "%.300s", err.message);
  }
}

UNIT_OF(cycles, "cycles")
UNIT_OF(refusals, "refusals")
UNIT_OF(devices, "devices")
UNIT_OF(streams, "streams")
UNIT_OF(in_flight, "in-flight")

const unit lifetime_units[] = {{"cycles", unit_cycles, NEEDS_PLUGIN, false},
                               {"refusals", unit_refusals, NEEDS_PLUGIN, false},
                               {"devices", unit_devices, NEEDS_DEVICE, false},
                               {"streams", unit_streams, NEEDS_DEVICE, false},
                               {"in-flight", unit_in_flight, NEEDS_PLUGIN, false},
                               {0}};
