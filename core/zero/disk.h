/* disk.h - numbers kept in a file: read and written by a thread of its own, in the order given.
 *
 * The file has no name from the beginning (O_TMPFILE, or unlinked at once), so that nothing is left
 * behind, however the process ends. Its space is taken when it is made: a full disk is found then.
 * Requests are done one after the other; a failure stays, and every later wait tells it.
 */
#ifndef DS_ZERO_DISK_H
#define DS_ZERO_DISK_H

#include <stdint.h>

#include "base/status.h"

typedef struct ds_disk ds_disk;

/* folder: an existing one, on the device that is wanted. DS_ERR_IO names it. */
DS_MUST_USE ds_status ds_disk_create(const char *folder, int64_t bytes, ds_disk **out,
                                     ds_error *err);
void ds_disk_destroy(ds_disk *d); /* what wasn't waited for may be lost; NULL is allowed */

/* Asks for a transfer; host is the request's until it has been waited for. Returns its number, to
 * wait for; no memory is taken. When too many are under way it waits for room. */
uint64_t ds_disk_read(ds_disk *d, int64_t at, size_t bytes, void *host);
uint64_t ds_disk_write(ds_disk *d, int64_t at, size_t bytes, const void *host);
/* Until the request of this number, and all before it, are done. */
DS_MUST_USE ds_status ds_disk_wait(ds_disk *d, uint64_t number, ds_error *err);

#endif
