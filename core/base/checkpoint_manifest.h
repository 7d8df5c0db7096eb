/* checkpoint_manifest.h - the list of a checkpoint's files: sizes and checksums.
 *
 * Text, a line "SUM SIZE NAME" for each file; for one of more than DS_MANIFEST_PART bytes a line
 * "SUM BEGIN-END NAME" for each part of so many, so that ranks can share the work of summing and
 * verifying, and a damaged place is known. The last line is the checksum of those before it.
 * SUM: ds_checksum (checksum.h). Files whose names begin with a dot don't count.
 */
#ifndef DS_BASE_CHECKPOINT_MANIFEST_H
#define DS_BASE_CHECKPOINT_MANIFEST_H

#include "base/status.h"

enum { DS_MANIFEST_PART = 16 << 20 };

/* A rank's share of a file's checksums: of every size-th part from `rank` on, kept in the folder. When
 * all ranks have called it for a file, and waited for each other, write() doesn't read that file
 * again. The file is final. */
DS_MUST_USE ds_status ds_checkpoint_manifest_sum(const char *folder, const char *name, int rank,
                                                 int size, ds_error *err);
/* folder/manifest, of all files there. */
DS_MUST_USE ds_status ds_checkpoint_manifest_write(const char *folder, ds_error *err);
/* The share of one of `size` ranks: every file's size, and the checksum of every size-th part. What
 * all ranks find good is good, if they see the same folder. DS_ERR_FORMAT names the first file that
 * isn't as it should be. */
DS_MUST_USE ds_status ds_checkpoint_manifest_verify(const char *folder, int rank, int size,
                                                    ds_error *err);

#endif
