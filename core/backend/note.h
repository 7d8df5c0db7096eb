/* note.h - the ELF note by which a plugin describes itself before any of its code runs.
 *
 * The file is only read, never loaded, and it may be anything: see elf.h.
 */
#ifndef DS_BACKEND_NOTE_H
#define DS_BACKEND_NOTE_H

#include "base/status.h"

/* Finds the note in the bytes of a shared object: 64-bit, of this machine's kind, with a PT_NOTE
 * segment (where linkers put section .note.dscore) that holds a note of name "dscore", type 1.
 * DS_ERR_FORMAT says what else the bytes are, DS_ERR_INVALID that the linker would search the
 * current folder for what the plugin needs (ds_elf_check_search); messages don't name the file. On
 * success the strings in *out are NUL-terminated, the name is well-formed, and what lies beyond
 * them is zero. */
DS_MUST_USE ds_status ds_note_parse(const unsigned char *data, size_t size, ds_note *out,
                                    ds_error *err);

/* The same for a regular file, by its descriptor or its path. */
DS_MUST_USE ds_status ds_note_read_fd(int fd, ds_note *out, ds_error *err);
DS_MUST_USE ds_status ds_note_read(const char *path, ds_note *out, ds_error *err);

/* Whether core, speaking `host`, and a plugin, speaking `plugin`, have a version in common.
 * DS_ERR_VERSION names both ranges and which side to upgrade. */
DS_MUST_USE ds_status ds_note_negotiate(ds_version_range host, ds_version_range plugin,
                                        ds_error *err);

#endif
