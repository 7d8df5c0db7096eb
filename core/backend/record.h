/* record.h - work that is recorded once and launched again: which there is, when it goes.
 *
 * Between begin and end what is given to the backend is recorded by the plugin and does not run
 * (ds_graph_table in ds_abi.h). All memory that it names stays until the recording is gone: whoever
 * frees device memory drops all recordings first, here, and engines record anew. Host data for
 * recorded work lies in memory of the recording (ds_record_input), which is written again before a
 * launch. A recording belongs to its backend, as streams do, and is gone when the stream dies.
 */
#ifndef DS_BACKEND_RECORD_H
#define DS_BACKEND_RECORD_H

#include "backend/backend.h"

typedef struct ds_recording ds_recording;

/* Whether the plugin records, and the config lets it. *why (may be NULL): what is missing. */
bool ds_record_offered(const ds_backend *b, const char **why);
/* Whether the config asks for recordings: what can't be recorded is then an error. */
bool ds_record_wanted(const ds_backend *b);

/* input_bytes: the room for ds_record_input. The same work must have run before, so that nothing is
 * allocated meanwhile: alloc fails with DS_ERR_STATE. */
DS_MUST_USE ds_status ds_record_begin(ds_backend *b, size_t input_bytes, ds_error *err);
bool ds_record_under_way(const ds_backend *b);
/* While recording: device memory for host data, which goes to *host before ds_record_end. */
DS_MUST_USE ds_status ds_record_input(ds_backend *b, size_t bytes, void **device, void **host,
                                      ds_error *err);
/* Inputs are uploaded; nothing runs yet. */
DS_MUST_USE ds_status ds_record_end(ds_backend *b, ds_recording **out, ds_error *err);
/* Gives up what is being recorded, if there is anything. */
void ds_record_cancel(ds_backend *b);

/* Whether a failure to record says that it can't be done, whatever its status, not that the device
 * fails: the stream lives. Waits. */
bool ds_record_refused(ds_backend *b);

/* False once it was dropped: record anew. */
bool ds_recording_alive(const ds_recording *r);
/* The device memory of the i-th ds_record_input. */
void *ds_recording_input(const ds_recording *r, int i);
/* Asynchronous; DS_ERR_STATE once it was dropped. */
DS_MUST_USE ds_status ds_recording_launch(ds_backend *b, ds_recording *r, ds_error *err);
/* Waits for its launches. NULL is allowed. */
void ds_recording_destroy(ds_backend *b, ds_recording *r);
/* All of them, and what is being recorded: memory goes that they may name, or the stream died. */
void ds_record_drop(ds_backend *b);

#endif
