#include "backend/elf.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

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

/* More than any real file has: one made to harm must not keep us busy. */
enum { PROGRAM_HEADERS_MAX = 128, DYNAMIC_MAX = 4096, PATH_SIZE = 4096 };

bool ds_elf_take(ds_elf_bytes b, uint64_t offset, void *out, size_t size) {
  if (offset > b.size || size > b.size - offset) return false;
  if (b.data) {
    memcpy(out, b.data + offset, size); /* nothing depends on the alignment of what a file says */
    return true;
  }
  for (size_t done = 0; done < size;) {
    ssize_t n = pread(b.fd, (char *)out + done, size - done, (off_t)(b.base + offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false; /* it shrank meanwhile, or can't be read */
    done += (size_t)n;
  }
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

static ds_status check_ident(ds_elf_bytes file, ds_error *err) {
  unsigned char ident[EI_NIDENT];
  if (file.size == 0) return ds_fail(err, DS_ERR_FORMAT, "the file is empty; copy it again");
  if (!ds_elf_take(file, 0, ident, SELFMAG) || memcmp(ident, ELFMAG, SELFMAG) != 0) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "not a shared object (no ELF header); remove it or build it again");
  }
  if (!ds_elf_take(file, 0, ident, sizeof ident)) {
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
  return DS_OK;
}

ds_status ds_elf_header(ds_elf_bytes file, Elf64_Ehdr *h, ds_error *err) {
  DS_TRY(check_ident(file, err));
  if (!ds_elf_take(file, 0, h, sizeof *h)) {
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
  if (h->e_phnum == 0 || h->e_phnum > PROGRAM_HEADERS_MAX || h->e_phentsize != sizeof(Elf64_Phdr)) {
    return ds_fail(
        err, DS_ERR_FORMAT,
        "its ELF header has no usable program headers (%d of %d bytes); copy it again or "
        "build it again",
        h->e_phnum, h->e_phentsize);
  }
  return DS_OK;
}

ds_status ds_elf_segment(ds_elf_bytes file, const Elf64_Ehdr *h, unsigned i, Elf64_Phdr *p,
                         ds_elf_bytes *segment, ds_error *err) {
  if (h->e_phoff > file.size ||
      !ds_elf_take(file, h->e_phoff + (uint64_t)i * sizeof *p, p, sizeof *p)) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "truncated: the file ends inside its program headers; copy it again");
  }
  if (p->p_offset > file.size || p->p_filesz > file.size - p->p_offset) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "truncated: segment %u ends at byte %llu, the file at %llu; copy it again", i,
                   (unsigned long long)p->p_offset + p->p_filesz, (unsigned long long)file.size);
  }
  *segment = (ds_elf_bytes){file.data ? file.data + p->p_offset : NULL, file.fd,
                            file.base + p->p_offset, p->p_filesz};
  return DS_OK;
}

/* ---- where the dynamic linker would map */

typedef struct span {
  uint64_t first, end; /* addresses of what is loaded so far; a span without any is 0, 0 */
} span;

static ds_status check_load(const Elf64_Phdr *p, span *s, ds_error *err) {
  if (p->p_filesz > p->p_memsz || p->p_memsz > UINT64_MAX / 4 || p->p_vaddr > UINT64_MAX / 4 ||
      p->p_vaddr < s->end) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "its segments overlap or are not in order; the file is damaged, copy it again");
  }
  if (!s->end) s->first = p->p_vaddr;
  s->end = p->p_vaddr + p->p_memsz;
  return DS_OK;
}

ds_status ds_elf_check_layout(ds_elf_bytes file, ds_error *err) {
  Elf64_Ehdr h;
  Elf64_Phdr p;
  ds_elf_bytes segment;
  span s = {0, 0};
  DS_TRY(ds_elf_header(file, &h, err));
  for (unsigned i = 0; i < h.e_phnum; i++) {
    DS_TRY(ds_elf_segment(file, &h, i, &p, &segment, err));
    if (p.p_type == PT_LOAD) DS_TRY(check_load(&p, &s, err));
  }
  for (unsigned i = 0; i < h.e_phnum; i++) {
    DS_TRY(ds_elf_segment(file, &h, i, &p, &segment, err));
    bool inside = p.p_vaddr >= s.first && p.p_vaddr <= s.end && p.p_memsz <= s.end - p.p_vaddr;
    if ((p.p_type == PT_DYNAMIC || p.p_type == PT_GNU_RELRO || p.p_type == PT_TLS) && !inside) {
      return ds_fail(err, DS_ERR_FORMAT,
                     "segment %u lies outside what is loaded; the file is damaged, copy it again",
                     i);
    }
  }
  return DS_OK;
}

/* ---- where the dynamic linker would look */

bool ds_elf_at(ds_elf_bytes file, const Elf64_Ehdr *h, uint64_t address, ds_elf_bytes *out) {
  for (unsigned i = 0; i < h->e_phnum; i++) {
    Elf64_Phdr p;
    if (ds_elf_segment(file, h, i, &p, out, NULL) != DS_OK) return false;
    if (p.p_type != PT_LOAD || address < p.p_vaddr || address - p.p_vaddr >= p.p_filesz) continue;
    uint64_t skip = address - p.p_vaddr;
    if (out->data)
      out->data += skip;
    else
      out->base += skip;
    out->size -= skip;
    return true;
  }
  return false;
}

static bool is_absolute(const char *path) {
  return path[0] == '/' || strncmp(path, "$ORIGIN", 7) == 0 || strncmp(path, "${ORIGIN}", 9) == 0;
}

static ds_status check_text(int64_t tag, char *text, ds_error *err) {
  bool path = tag == DT_RUNPATH || tag == DT_RPATH;
  if (!path) {
    if (!strchr(text, '/') || is_absolute(text)) return DS_OK;
    return ds_fail(err, DS_ERR_INVALID,
                   "needs the library \"%.200s\", a relative path, which would be looked up in the "
                   "current folder; link it by its soname",
                   text);
  }
  if (!text[0]) return DS_OK; /* as good as none */
  for (const char *part = text;; part = strchr(part, ':') + 1) {
    if (!is_absolute(part)) {
      return ds_fail(err, DS_ERR_INVALID,
                     "its RUNPATH \"%.200s\" has an empty or relative part, which would be looked "
                     "up in the current folder; link it with absolute ones or $ORIGIN",
                     text);
    }
    if (!strchr(part, ':')) return DS_OK;
  }
}

static bool names_file(int64_t tag) {
  return tag == DT_RUNPATH || tag == DT_RPATH || tag == DT_NEEDED || tag == DT_AUXILIARY ||
         tag == DT_FILTER;
}

static ds_status check_dynamic(ds_elf_bytes file, const Elf64_Ehdr *h, ds_elf_bytes dynamic,
                               ds_error *err) {
  Elf64_Dyn d;
  ds_elf_bytes strings = {0};
  for (unsigned i = 0; i < DYNAMIC_MAX; i++) {
    if (!ds_elf_take(dynamic, i * sizeof d, &d, sizeof d) || d.d_tag == DT_NULL) break;
    if (d.d_tag == DT_STRTAB && !ds_elf_at(file, h, d.d_un.d_ptr, &strings)) {
      return ds_fail(err, DS_ERR_FORMAT, "its dynamic section names no string table in the file");
    }
  }
  for (unsigned i = 0; i < DYNAMIC_MAX; i++) {
    char text[PATH_SIZE];
    if (!ds_elf_take(dynamic, i * sizeof d, &d, sizeof d) || d.d_tag == DT_NULL) break;
    if (!names_file(d.d_tag)) continue;
    uint64_t left = d.d_un.d_val < strings.size ? strings.size - d.d_un.d_val : 0;
    size_t size = left < sizeof text ? (size_t)left : sizeof text;
    if (!ds_elf_take(strings, d.d_un.d_val, text, size) || !memchr(text, '\0', size)) {
      return ds_fail(err, DS_ERR_FORMAT,
                     "its dynamic section is damaged (a name without an end); copy it again");
    }
    DS_TRY(check_text(d.d_tag, text, err));
  }
  return DS_OK;
}

ds_status ds_elf_check_search(ds_elf_bytes file, ds_error *err) {
  Elf64_Ehdr h;
  DS_TRY(ds_elf_header(file, &h, err));
  for (unsigned i = 0; i < h.e_phnum; i++) {
    Elf64_Phdr p;
    ds_elf_bytes segment = {0};
    DS_TRY(ds_elf_segment(file, &h, i, &p, &segment, err));
    if (p.p_type == PT_DYNAMIC) DS_TRY(check_dynamic(file, &h, segment, err));
  }
  return DS_OK;
}
