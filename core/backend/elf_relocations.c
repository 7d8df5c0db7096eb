/* elf_relocations.c - what the dynamic linker would read and write by a file's own account, before
 * it does so: it checks next to nothing itself. */
#include "backend/elf.h"

#include <string.h>

enum {
  DYNAMIC_MAX = 4096,
  CHUNK = 128,                /* relocations read at once */
  RELOCATIONS_MAX = 1u << 22, /* more than any real plugin has */
  RELR_MAX = 1u << 18,        /* words, each of up to 63 relocations */
};

typedef struct tables {
  uint64_t rela, rela_size, jump, jump_size, relr, relr_size, symbols;
} tables;

typedef struct image {
  ds_elf_bytes file;
  Elf64_Ehdr h;
  Elf64_Phdr loads[16]; /* more than any linker makes */
  int n_loads;
} image;

static ds_status damaged(ds_error *err, const char *what) {
  return ds_fail(err, DS_ERR_FORMAT,
                 "%s outside its own memory; the file is damaged, copy it again", what);
}

/* Whether [address, address + size) lies in one segment. Into one that is not writable the linker
 * may write too (DT_TEXTREL); else it crashes, in the probe. */
static bool is_inside(const image *m, uint64_t address, uint64_t size) {
  for (int i = 0; i < m->n_loads; i++) {
    const Elf64_Phdr *p = &m->loads[i];
    if (address < p->p_vaddr || address - p->p_vaddr > p->p_memsz) continue;
    if (size <= p->p_memsz - (address - p->p_vaddr)) return true;
  }
  return false;
}

static bool is_address(int64_t tag) {
  switch (tag) {
    case DT_STRTAB:
    case DT_SYMTAB:
    case DT_RELA:
    case DT_RELR:
    case DT_JMPREL:
    case DT_HASH:
    case DT_GNU_HASH:
    case DT_PLTGOT:
    case DT_VERSYM:
    case DT_VERNEED:
    case DT_VERDEF:
    case DT_INIT:
    case DT_FINI:
    case DT_INIT_ARRAY:
    case DT_FINI_ARRAY: return true;
    default: return false;
  }
}

static ds_status read_dynamic(image *m, ds_elf_bytes dynamic, tables *t, ds_error *err) {
  for (unsigned i = 0; i < DYNAMIC_MAX; i++) {
    Elf64_Dyn d;
    if (!ds_elf_take(dynamic, i * sizeof d, &d, sizeof d) || d.d_tag == DT_NULL) break;
    uint64_t value = d.d_un.d_val;
    if (is_address(d.d_tag) && !is_inside(m, value, 1))
      return damaged(err, "its dynamic section names a table");
    switch (d.d_tag) {
      case DT_RELA: t->rela = value; break;
      case DT_RELASZ: t->rela_size = value; break;
      case DT_JMPREL: t->jump = value; break;
      case DT_PLTRELSZ: t->jump_size = value; break;
      case DT_RELR: t->relr = value; break;
      case DT_RELRSZ: t->relr_size = value; break;
      case DT_SYMTAB: t->symbols = value; break;
      default: break;
    }
  }
  return DS_OK;
}

static ds_status check_rela(const image *m, const tables *t, uint64_t at, uint64_t size,
                            ds_error *err) {
  ds_elf_bytes bytes;
  Elf64_Rela r[CHUNK];
  uint64_t count = size / sizeof *r;
  if (count == 0) return DS_OK;
  if (count > RELOCATIONS_MAX || !is_inside(m, at, size) || !ds_elf_at(m->file, &m->h, at, &bytes))
    return damaged(err, "its relocations lie");
  for (uint64_t done = 0; done < count; done += CHUNK) {
    size_t n = count - done < CHUNK ? (size_t)(count - done) : CHUNK;
    if (!ds_elf_take(bytes, done * sizeof *r, r, n * sizeof *r))
      return damaged(err, "its relocations lie");
    for (size_t i = 0; i < n; i++) {
      uint64_t symbol = ELF64_R_SYM(r[i].r_info);
      if (ELF64_R_TYPE(r[i].r_info) != 0 && !is_inside(m, r[i].r_offset, sizeof(uint64_t)))
        return damaged(err, "a relocation writes");
      if (symbol && !is_inside(m, t->symbols + symbol * sizeof(Elf64_Sym), sizeof(Elf64_Sym)))
        return damaged(err, "a relocation names a symbol");
    }
  }
  return DS_OK;
}

/* RELR: an address, or a bitmap of the 63 words that follow. */
static ds_status check_relr(const image *m, const tables *t, ds_error *err) {
  ds_elf_bytes bytes;
  uint64_t count = t->relr_size / sizeof(uint64_t), where = 0;
  if (count == 0) return DS_OK;
  if (count > RELR_MAX || !ds_elf_at(m->file, &m->h, t->relr, &bytes))
    return damaged(err, "its relocations lie");
  for (uint64_t i = 0; i < count; i++) {
    uint64_t entry;
    if (!ds_elf_take(bytes, i * sizeof entry, &entry, sizeof entry))
      return damaged(err, "its relocations lie");
    if (!(entry & 1)) {
      if (!is_inside(m, entry, sizeof entry)) return damaged(err, "a relocation writes");
      where = entry + sizeof entry;
      continue;
    }
    for (int bit = 0; bit < 63; bit++) {
      if ((entry >> (bit + 1) & 1) && !is_inside(m, where + 8u * (unsigned)bit, 8))
        return damaged(err, "a relocation writes");
    }
    where += 63 * 8;
  }
  return DS_OK;
}

ds_status ds_elf_check_relocations(ds_elf_bytes file, ds_error *err) {
  image m = {.file = file};
  tables t = {0};
  ds_elf_bytes segment = {0}, dynamic = {0};
  Elf64_Phdr p;
  DS_TRY(ds_elf_header(file, &m.h, err));
  for (unsigned i = 0; i < m.h.e_phnum; i++) {
    DS_TRY(ds_elf_segment(file, &m.h, i, &p, &segment, err));
    if (p.p_type == PT_DYNAMIC) dynamic = segment;
    if (p.p_type != PT_LOAD) continue;
    if (m.n_loads == sizeof m.loads / sizeof *m.loads)
      return ds_fail(err, DS_ERR_FORMAT, "it has more segments than any linker makes");
    m.loads[m.n_loads++] = p;
  }
  DS_TRY(read_dynamic(&m, dynamic, &t, err));
  DS_TRY(check_rela(&m, &t, t.rela, t.rela_size, err));
  DS_TRY(check_rela(&m, &t, t.jump, t.jump_size, err));
  return check_relr(&m, &t, err);
}
