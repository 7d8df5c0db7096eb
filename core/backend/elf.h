/* elf.h - bounded reading of a file that may be a shared object.
 *
 * The file is only read, never loaded. It may be anything: a text, a library of another machine, a
 * plugin cut off in a download, bytes made to harm, or shrinking while it is read (so it is read,
 * not mapped). Every offset and size is checked against the file's end before it is used, and
 * nothing loops longer than a fixed bound. Messages don't name the file.
 */
#ifndef DS_BACKEND_ELF_H
#define DS_BACKEND_ELF_H

#include <elf.h>
#include <stdbool.h>

#include "base/status.h"

/* A range of bytes, in memory or, where data is NULL, in an open file. */
typedef struct ds_elf_bytes {
  const unsigned char *data;
  int fd;
  uint64_t base; /* where in the file the range begins; 0 in memory */
  uint64_t size;
} ds_elf_bytes;

/* Copies size bytes at offset; false when they are not all there. */
bool ds_elf_take(ds_elf_bytes b, uint64_t offset, void *out, size_t size);

/* The header of a 64-bit shared object for this machine, with usable program headers; else
 * DS_ERR_FORMAT says what else the bytes are. */
DS_MUST_USE ds_status ds_elf_header(ds_elf_bytes file, Elf64_Ehdr *h, ds_error *err);

/* Program header i < h->e_phnum, and the bytes of its segment. */
DS_MUST_USE ds_status ds_elf_segment(ds_elf_bytes file, const Elf64_Ehdr *h, unsigned i,
                                     Elf64_Phdr *p, ds_elf_bytes *segment, ds_error *err);

/* Refuses segments that are not in the order of their addresses, that overlap or wrap around, and
 * parts of the file (the dynamic section, what becomes read-only) outside them: the dynamic linker
 * would map or protect them over memory of the host's. */
DS_MUST_USE ds_status ds_elf_check_layout(ds_elf_bytes file, ds_error *err);

/* The bytes from an address on, as far as its segment holds them in the file. False when there are
 * none. */
bool ds_elf_at(ds_elf_bytes file, const Elf64_Ehdr *h, uint64_t address, ds_elf_bytes *out);

/* Refuses tables of the dynamic section that lie outside the file's segments, and relocations that
 * would write outside them or name symbols outside them (elf_relocations.c). */
DS_MUST_USE ds_status ds_elf_check_relocations(ds_elf_bytes file, ds_error *err);

/* Refuses what would let the dynamic linker look for a library in the current folder: a RUNPATH or
 * RPATH with an empty or relative part, a needed library with a relative path. A check of honest
 * mistakes; a file made to harm has other ways. */
DS_MUST_USE ds_status ds_elf_check_search(ds_elf_bytes file, ds_error *err);

#endif
