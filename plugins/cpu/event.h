/* event.h - the device table's events; see ds_abi.h. Waiting on the host for an event of a stream
 * that failed before it gives that failure; a stream that waits for it just goes on. */
#ifndef DS_CPU_EVENT_H
#define DS_CPU_EVENT_H

#include "cpu.h"

ds_status ds_cpu_event_create(ds_device *dev, ds_event **out, ds_error *err);
void ds_cpu_event_destroy(ds_event *e);
ds_status ds_cpu_event_record(ds_event *e, ds_stream *s, ds_error *err);
ds_status ds_cpu_event_wait(ds_event *e, ds_stream *s, ds_error *err);
ds_status ds_cpu_event_sync(ds_event *e, ds_error *err);

#endif
