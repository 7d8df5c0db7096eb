/* discovery.h - which files may be plugins, and in which order they count.
 *
 * Folders are searched in this order:
 *   1. the entries of plugin_path (config), or of DS_PLUGIN_PATH, which replaces them
 *   2. beside libdscore.so, then beside the running program (both with links resolved):
 *      <folder>/plugins, <folder>/dscore, <folder>/../plugins; beside the program also
 *      <folder>/../<libdir>/dscore, as installed, wherever the prefix was moved to
 *   3. the folder compiled in, <libdir>/dscore
 * In a folder, the files named dscore_*.so count by name; after them those in its direct
 * subfolders, by name too. A file met twice (same device and inode) counts once. The reference
 * comes last. An entry of plugin_path may also name one plugin file.
 *
 * The current directory is never searched: an entry that doesn't begin with '/' is refused. So is a
 * file or folder in a place that others can change (place.h), and a plugin that would let the
 * linker search the current directory (elf.h). Links are followed, and what counts is where they
 * end. Nothing but a regular file is opened. What is refused stands in the list with its reason.
 * Notes are read (note.h); no plugin code runs here.
 */
#ifndef DS_BACKEND_DISCOVERY_H
#define DS_BACKEND_DISCOVERY_H

#include "backend/place.h"

typedef struct ds_candidate {
  char *path;       /* resolved; of a refused folder, as it was given; NULL: built in */
  ds_identity id;   /* of the file that was examined */
  ds_note note;     /* name "" when it was not read */
  ds_status status; /* DS_OK, or why it is refused before any of its code runs */
  char *reason;     /* with the cure; NULL when not refused */
} ds_candidate;

typedef struct ds_candidates {
  ds_candidate *items; /* in the order of discovery */
  size_t count, capacity;
} ds_candidates;

/* Fails only when memory is exhausted; out is then empty. */
DS_MUST_USE ds_status ds_discovery_find(char *const *plugin_path, int n_plugin_path,
                                        ds_candidates *out, ds_error *err);
void ds_discovery_finish(ds_candidates *c);

#endif
