/* side.h - streams beside the backend's own, and places in their work to wait for.
 *
 * A backend gives its work to one stream. What may run meanwhile - collectives, transfers - goes to
 * a side stream; marks order the two. Where a device has no events, setting a mark waits on the
 * host until the work is done: right, but nothing overlaps.
 *
 * A ds_side and its marks belong to one backend, are used by its thread, and end before it. A side
 * stream that died (see Failures in ds_abi.h) stays dead: ds_side_revive makes a new one. No work
 * is given to a side while work is being recorded (record.h).
 */
#ifndef DS_BACKEND_SIDE_H
#define DS_BACKEND_SIDE_H

#include "backend/backend.h"

typedef struct ds_side ds_side;
typedef struct ds_mark ds_mark;

DS_MUST_USE ds_status ds_side_create(ds_backend *b, ds_side **out, ds_error *err);
void ds_side_destroy(ds_side *s); /* waits for its work; NULL is allowed */
/* Whether it died. Waits for its work. NULL: no. */
bool ds_side_died(ds_side *s);
/* As ds_backend_recover, of this stream. */
DS_MUST_USE ds_status ds_side_revive(ds_side *s, ds_error *err);
/* The plugin's stream of s; of the backend where s is NULL. */
ds_stream *ds_side_stream(ds_backend *b, ds_side *s);

/* Work given to s from now on waits for all that the backend's stream has so far. */
DS_MUST_USE ds_status ds_side_follow(ds_side *s, ds_error *err);
/* Work given to the backend's stream from now on waits for all that s has so far. */
DS_MUST_USE ds_status ds_side_join(ds_side *s, ds_error *err);
/* The host waits until all work of s is done; reports its first failure. */
DS_MUST_USE ds_status ds_side_sync(ds_side *s, ds_error *err);

DS_MUST_USE ds_status ds_mark_create(ds_backend *b, ds_mark **out, ds_error *err);
void ds_mark_destroy(ds_mark *m); /* NULL is allowed */
/* m is where the work of s (NULL: of the backend's stream) is now. */
DS_MUST_USE ds_status ds_mark_set(ds_mark *m, ds_side *s, ds_error *err);
/* Work given to s (NULL: to the backend's stream) from now on waits until m is reached. A mark that
 * was never set is reached. */
DS_MUST_USE ds_status ds_mark_wait(ds_mark *m, ds_side *s, ds_error *err);
/* The host waits. Any thread. */
DS_MUST_USE ds_status ds_mark_sync(ds_mark *m, ds_error *err);

/* On s: as ds_backend_copy, ds_backend_upload and ds_backend_download, where the last doesn't wait
 * and the host's memory is the work's until it is done; it must be of ds_host_alloc. s NULL: on the
 * backend's stream. */
DS_MUST_USE ds_status ds_side_copy(ds_backend *b, ds_side *s, void *dst, const void *src,
                                   size_t bytes, ds_error *err);
DS_MUST_USE ds_status ds_side_upload(ds_backend *b, ds_side *s, void *dst, const void *src,
                                     size_t bytes, ds_error *err);
DS_MUST_USE ds_status ds_side_download(ds_backend *b, ds_side *s, void *dst, const void *src,
                                       size_t bytes, ds_error *err);

/* Host memory that the device reads and writes by itself where it can (pinned); else ordinary
 * memory, and the two transfers above wait. 64-byte aligned; bytes > 0. */
DS_MUST_USE ds_status ds_host_alloc(ds_backend *b, size_t bytes, void **out, ds_error *err);
/* No work may still use it. NULL is allowed. */
void ds_host_free(ds_backend *b, void *p);

#endif
