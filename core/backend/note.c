#include "backend/note.h"

#include <elf.h>
#include <stdbool.h>
#include <string.h>

#include "base/file.h"

#if defined(__x86_64__)
#define THIS_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define THIS_MACHINE EM_AARCH64
#elif defined(__riscv)
#define THIS_MACHINE EM_RISCV
#elif defined(__powerpc64__)
#define THIS_MACHINE EM_PPC64
#else
#error "name this machine's e_machine here"
#endif

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define THIS_ORDER ELFDATA2LSB
#else
#define THIS_ORDER ELFDATA2MSB
#endif

typedef struct bytes {
  const unsigned char *data;
  size_t size;
} bytes;

/* Copies, so that nothing depends on the alignment of what a file says. */
static bool take(bytes b, uint64_t offset, void *out, size_t size) {
  if (offset > b.size || size > b.size - offset) return false;
  memcpy(out, b.data + offset, size);
  return true;
}

static const char *machine_name(unsigned machine) {
  switch (machine) {
    case EM_386: return "x86 (32-bit)";
    case EM_X86_64: return "x86-64";
    case EM_ARM: return "arm (32-bit)";
    case EM_AARCH64: return "aarch64";
    case EM_RISCV: return "riscv";
    case EM_PPC64: return "ppc64";
    default: return "another machine";
  }
}

static ds_status check_header(bytes file, Elf64_Ehdr *h, ds_error *err) {
  unsigned char ident[EI_NIDENT];
  if (file.size == 0) return ds_fail(err, DS_ERR_FORMAT, "the file is empty; copy it again");
  if (file.size < SELFMAG || memcmp(file.data, ELFMAG, SELFMAG) != 0) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "not a shared object (no ELF header); remove it or build it again");
  }
  if (!take(file, 0, ident, sizeof ident)) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "truncated: the file ends inside its ELF header; copy it again");
  }
  if (ident[EI_CLASS] != ELFCLASS64) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "not a 64-bit shared object (ELF class %d); build it for this machine",
                   ident[EI_CLASS]);
  }
  if (ident[EI_DATA] != THIS_ORDER || ident[EI_VERSION] != EV_CURRENT) {
    return ds_fail(
        err, DS_ERR_FORMAT,
        "of another byte order or ELF version (data %d, version %d); build it for this machine",
        ident[EI_DATA], ident[EI_VERSION]);
  }
  if (!take(file, 0, h, sizeof *h)) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "truncated: the file ends inside its ELF header; copy it again");
  }
  if (h->e_machine != THIS_MACHINE) {
    return ds_fail(err, DS_ERR_FORMAT, "built for %s (ELF machine %d), this process is %s",
                   machine_name(h->e_machine), h->e_machine, machine_name(THIS_MACHINE));
  }
  if (h->e_type != ET_DYN) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "an ELF file, but no shared object (type %d); link it with -shared", h->e_type);
  }
  return DS_OK;
}

static bool is_terminated(const char *text, size_t size) {
  return memchr(text, '\0', size) != NULL;
}

static ds_status check_note(ds_note *n, ds_error *err) {
  if (!is_terminated(n->name, sizeof n->name) || !is_terminated(n->version, sizeof n->version) ||
      !is_terminated(n->needs, sizeof n->needs)) {
    return ds_fail(err, DS_ERR_FORMAT, "its dscore note has a text without an end; build it again");
  }
  size_t length = strlen(n->name);
  if (length == 0 || strspn(n->name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != length) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "its dscore note has an invalid name; a name is made of a-z 0-9 _ -");
  }
  if (strcmp(n->name, "auto") == 0 || strcmp(n->name, "reference") == 0) {
    return ds_fail(err, DS_ERR_FORMAT, "its dscore note has the name \"%s\", which is core's own",
                   n->name);
  }
  if (n->abi.min_minor > n->abi.max_minor) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "its dscore note has the ABI range %u.%u to %u.%u, which is empty", n->abi.major,
                   n->abi.min_minor, n->abi.major, n->abi.max_minor);
  }
  /* Messages print these texts: control characters would let a file forge lines. */
  for (char *p = n->version; *p; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f) *p = '?';
  for (char *p = n->needs; *p; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f) *p = '?';
  return DS_OK;
}

static ds_status read_note(bytes desc, ds_note *out, ds_error *err) {
  ds_note n;
  memset(&n, 0, sizeof n);
  if (!take(desc, 0, &n, sizeof n) || n.size < sizeof n || n.size > desc.size) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "its dscore note has the wrong size (%zu bytes that say they are %u; %zu are "
                   "needed); build it again with DS_PLUGIN_NOTE of ds_abi.h",
                   desc.size, n.size, sizeof n);
  }
  DS_TRY(check_note(&n, err));
  memset(out, 0, sizeof *out);
  out->size = sizeof n;
  out->abi = n.abi;
  out->priority = n.priority;
  memcpy(out->name, n.name, strlen(n.name));
  memcpy(out->version, n.version, strlen(n.version));
  memcpy(out->needs, n.needs, strlen(n.needs));
  return DS_OK;
}

/* Rounding up of an offset that lies inside the segment, so that nothing overflows. */
static uint64_t align_up(uint64_t offset, uint64_t align) {
  return (offset + align - 1) & ~(align - 1);
}

/* One PT_NOTE segment. DS_ERR_NOT_FOUND when dscore's note is not in it. */
static ds_status scan_segment(bytes segment, uint64_t align, ds_note *out, ds_error *err) {
  Elf64_Nhdr h;
  for (uint64_t at = 0; take(segment, at, &h, sizeof h);) {
    uint64_t name = at + sizeof h, desc = align_up(name + h.n_namesz, align);
    if (h.n_namesz > segment.size - name || desc > segment.size ||
        h.n_descsz > segment.size - desc) {
      return ds_fail(err, DS_ERR_FORMAT,
                     "a note reaches beyond its segment; the file is damaged, copy it again");
    }
    if (h.n_type == DS_NOTE_TYPE && h.n_namesz == sizeof DS_NOTE_NAME &&
        memcmp(segment.data + name, DS_NOTE_NAME, sizeof DS_NOTE_NAME) == 0) {
      return read_note((bytes){segment.data + desc, h.n_descsz}, out, err);
    }
    at = align_up(desc + h.n_descsz, align);
  }
  return DS_ERR_NOT_FOUND;
}

ds_status ds_note_parse(const unsigned char *data, size_t size, ds_note *out, ds_error *err) {
  bytes file = {data, size};
  Elf64_Ehdr h;
  DS_TRY(check_header(file, &h, err));
  if (h.e_phnum == 0 || h.e_phentsize != sizeof(Elf64_Phdr)) {
    return ds_fail(err, DS_ERR_FORMAT, "its ELF header has no usable program headers");
  }
  for (unsigned i = 0; i < h.e_phnum; i++) {
    Elf64_Phdr p;
    if (h.e_phoff > size || !take(file, h.e_phoff + (uint64_t)i * sizeof p, &p, sizeof p)) {
      return ds_fail(err, DS_ERR_FORMAT,
                     "truncated: the file ends inside its program headers; copy it again");
    }
    if (p.p_offset > size || p.p_filesz > size - p.p_offset) {
      return ds_fail(err, DS_ERR_FORMAT,
                     "truncated: segment %u ends at byte %llu, the file at %zu; copy it again", i,
                     (unsigned long long)p.p_offset + p.p_filesz, size);
    }
    if (p.p_type != PT_NOTE) continue;
    bytes segment = {data + p.p_offset, (size_t)p.p_filesz};
    ds_status status = scan_segment(segment, p.p_align == 8 ? 8 : 4, out, err);
    if (status != DS_ERR_NOT_FOUND) return status;
  }
  return ds_fail(err, DS_ERR_FORMAT,
                 "a shared object without a dscore note, so no plugin; a plugin has one "
                 "DS_PLUGIN_NOTE (ds_abi.h) in one of its C files");
}

ds_status ds_note_read(const char *path, ds_note *out, ds_error *err) {
  ds_file file;
  DS_TRY(ds_file_map(path, &file, err));
  ds_status status = ds_note_parse(file.data, file.size, out, err);
  ds_file_unmap(&file);
  return status;
}

ds_status ds_note_negotiate(ds_version_range host, ds_version_range plugin, ds_error *err) {
  bool plugin_newer, common = host.major == plugin.major && plugin.min_minor <= host.max_minor &&
                              host.min_minor <= plugin.max_minor;
  if (common) return DS_OK;
  plugin_newer =
      plugin.major != host.major ? plugin.major > host.major : plugin.min_minor > host.max_minor;
  return ds_fail(err, DS_ERR_VERSION,
                 "speaks ABI %u.%u to %u.%u, this dscore speaks %u.%u to %u.%u: upgrade %s",
                 plugin.major, plugin.min_minor, plugin.major, plugin.max_minor, host.major,
                 host.min_minor, host.major, host.max_minor,
                 plugin_newer ? "dscore" : "the plugin");
}
