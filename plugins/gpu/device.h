/* device.h - the functions of gpu_device_table, by the file they stand in. What each does: ds_abi.h. */
#ifndef DS_GPU_DEVICE_H
#define DS_GPU_DEVICE_H

#include "fate.h"

/* memory.c */
ds_status gpu_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err);
void gpu_free(ds_device *dev, void *p);
ds_status gpu_host_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err);
void gpu_host_free(ds_device *dev, void *p);
ds_status gpu_stream_alloc(ds_stream *s, size_t bytes, void **out, ds_error *err);
ds_status gpu_stream_free(ds_stream *s, void *p, ds_error *err);

/* stream.c */
ds_status gpu_stream_create(ds_device *dev, ds_stream **out, ds_error *err);
void gpu_stream_destroy(ds_stream *s);
ds_status gpu_stream_sync(ds_stream *s, ds_error *err);

/* transfer.c */
ds_status gpu_upload(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err);
ds_status gpu_download(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err);
ds_status gpu_upload_async(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err);
ds_status gpu_download_async(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err);
ds_status gpu_copy(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err);
ds_status gpu_fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_error *err);
ds_status gpu_peer_copy(ds_stream *s, ds_device *to, void *dst, ds_device *from, const void *src,
                        size_t bytes, ds_error *err);

/* event.c */
ds_status gpu_event_create(ds_device *dev, ds_event **out, ds_error *err);
void gpu_event_destroy(ds_event *e);
ds_status gpu_event_record(ds_event *e, ds_stream *s, ds_error *err);
ds_status gpu_event_wait(ds_event *e, ds_stream *s, ds_error *err);
ds_status gpu_event_sync(ds_event *e, ds_error *err);

/* graph.c: ends a recording, if there is one, and forgets it. */
void gpu_graph_drop(ds_stream *s);

#endif
