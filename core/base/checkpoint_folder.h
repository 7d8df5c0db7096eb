/* checkpoint_folder.h - a folder that is either there, whole and proven, or not there.
 *
 * A checkpoint is written into dir/.tmp-TAG-TIME-PID and gets its name by a rename when all its files
 * are on disk; an older one of that name is swapped out in the same instant, and removed then.
 * `latest` is replaced last. So at any moment the newest whole checkpoint can be loaded. A manifest
 * holds size and checksum of every file, and of itself (checkpoint_manifest.h).
 *
 * Of several ranks one begins, commits or aborts; the others may write files into the folder between.
 */
#ifndef DS_BASE_CHECKPOINT_FOLDER_H
#define DS_BASE_CHECKPOINT_FOLDER_H

#include "base/status.h"

/* A tag is a file name: no '/', no leading '.', not empty, at most 128 bytes. */
DS_MUST_USE ds_status ds_checkpoint_folder_check_tag(const char *tag, ds_error *err);

/* Makes dir and a fresh folder in it, whose path is *out (free() it). Leftovers of processes that
 * were killed are removed. */
DS_MUST_USE ds_status ds_checkpoint_folder_begin(const char *dir, const char *tag, char **out,
                                                 ds_error *err);
/* Writes the manifest of all files in folder (made by begin), gives the folder its name dir/tag,
 * and writes dir/latest. On failure latest still names a whole checkpoint; abort then. */
DS_MUST_USE ds_status ds_checkpoint_folder_commit(const char *dir, const char *tag,
                                                  const char *folder, ds_error *err);
/* Removes a folder that begin made, if it is still there. */
void ds_checkpoint_folder_abort(const char *folder);

/* The path of a checkpoint: dir/tag; tag NULL = what dir/latest names. DS_ERR_NOT_FOUND says what
 * is missing. Both are new (free() them); *name may be NULL. */
DS_MUST_USE ds_status ds_checkpoint_folder_find(const char *dir, const char *tag, char **path,
                                                char **name, ds_error *err);
/* Every file of the manifest is there with its size and checksum. DS_ERR_FORMAT names the first
 * that isn't. */
DS_MUST_USE ds_status ds_checkpoint_folder_verify(const char *path, ds_error *err);

#endif
