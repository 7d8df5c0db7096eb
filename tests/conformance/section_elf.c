/* section_elf.c - what the plugin's file must be: its note, its symbols, its flags. */
#include "suite.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <string.h>

#include "backend/note.h"
#include "base/file.h"

/* The parts of a shared object that the checks look at; all within the file's bounds. */
typedef struct elf {
  ds_file file;
  const Elf64_Sym *symbols;
  const Elf64_Dyn *dynamic;
  size_t n_symbols, n_dynamic;
  const char *symbol_names, *dynamic_names;
  size_t symbol_room, dynamic_room;
} elf;

static bool part(const elf *e, const Elf64_Shdr *s, const void **out) {
  if (s->sh_offset > e->file.size || s->sh_size > e->file.size - s->sh_offset) return false;
  *out = e->file.data + s->sh_offset;
  return true;
}

/* Files come from mmap, so that what ELF aligns is aligned. */
static bool read_sections(elf *e) {
  const Elf64_Ehdr *h = (const void *)e->file.data;
  Elf64_Shdr all = {.sh_offset = h->e_shoff, .sh_size = (uint64_t)h->e_shnum * sizeof all};
  const void *at, *names;
  if (h->e_shentsize != sizeof all || h->e_shoff % 8 || !part(e, &all, &at)) return false;
  const Elf64_Shdr *s = at;
  for (unsigned i = 0; i < h->e_shnum; i++) {
    bool symbols = s[i].sh_type == SHT_DYNSYM, dynamic = s[i].sh_type == SHT_DYNAMIC;
    if (!symbols && !dynamic) continue;
    if (s[i].sh_link >= h->e_shnum || s[i].sh_offset % 8 || !part(e, &s[i], &at) ||
        !part(e, &s[s[i].sh_link], &names))
      return false;
    size_t room = s[s[i].sh_link].sh_size;
    if (room == 0 || ((const char *)names)[room - 1] != '\0') return false;
    if (symbols) {
      e->symbols = at;
      e->n_symbols = s[i].sh_size / sizeof *e->symbols;
      e->symbol_names = names;
      e->symbol_room = room;
    } else {
      e->dynamic = at;
      e->n_dynamic = s[i].sh_size / sizeof *e->dynamic;
      e->dynamic_names = names;
      e->dynamic_room = room;
    }
  }
  return e->symbols && e->dynamic;
}

/* False: the tally says why. Unmap the file after true. */
static bool open_elf(conformance *k, elf *e, tally *t) {
  ds_error err;
  ds_note note;
  memset(e, 0, sizeof *e);
  if (strcmp(k->path, "reference") == 0) {
    check_unsupported(t, "built into core: there is no file");
    return false;
  }
  if (ds_file_map(k->path, &e->file, &err) != DS_OK) {
    check_fail(t, "%s", err.message);
    return false;
  }
  if (ds_note_parse(e->file.data, e->file.size, &note, &err) != DS_OK)
    check_fail(t, "%s", err.message);
  else if (!read_sections(e))
    check_fail(t, "its section headers have no usable .dynsym and .dynamic; don't strip those");
  else
    return true;
  ds_file_unmap(&e->file);
  return false;
}

static void note(conformance *k, tally *t) {
  elf e;
  ds_note n;
  ds_error err;
  if (!open_elf(k, &e, t)) return;
  ds_file_unmap(&e.file);
  NEED(ds_note_read(k->path, &n, &err) == DS_OK, "%s", err.message);
  NEED(strcmp(n.name, k->plugin->name ? k->plugin->name : "") == 0,
       "the note has the name \"%s\", the table \"%.60s\"", n.name, k->plugin->name);
  NEED(strcmp(n.version, k->plugin->version ? k->plugin->version : "") == 0,
       "the note has the version \"%s\", the table \"%.60s\"", n.version, k->plugin->version);
  NEED(n.abi.major == k->plugin->base.major && n.abi.min_minor <= k->plugin->base.minor &&
           k->plugin->base.minor <= n.abi.max_minor,
       "the plugin agreed to ABI %u.%u, which is outside the note's range %u.%u to %u.%u",
       k->plugin->base.major, k->plugin->base.minor, n.abi.major, n.abi.min_minor, n.abi.major,
       n.abi.max_minor);
  NEED(n.priority >= 0, "priority %d: at least 0, which is the reference's", n.priority);
}

static const char *symbol_name(const elf *e, const Elf64_Sym *s) {
  return s->st_name < e->symbol_room ? e->symbol_names + s->st_name : "";
}

static void exports(conformance *k, tally *t) {
  elf e;
  if (!open_elf(k, &e, t)) return;
  char others[300] = "";
  int count = 0;
  bool query = false;
  for (size_t i = 1; i < e.n_symbols; i++) {
    const Elf64_Sym *s = &e.symbols[i];
    if (s->st_shndx == SHN_UNDEF || ELF64_ST_BIND(s->st_info) == STB_LOCAL) continue;
    const char *name = symbol_name(&e, s);
    size_t used = strlen(others);
    if (strcmp(name, "ds_plugin_query") == 0)
      query = true;
    else if (count++ < 5)
      snprintf(others + used, sizeof others - used, " %.40s", name);
  }
  ds_file_unmap(&e.file);
  NEED(query, "ds_plugin_query is not exported; declare it DS_EXPORT");
  NEED(count == 0,
       "exports %d symbols besides ds_plugin_query:%s; a version script keeps them local", count,
       others);
}

static void nodelete(conformance *k, tally *t) {
  elf e;
  if (!open_elf(k, &e, t)) return;
  bool set = false;
  for (size_t i = 0; i < e.n_dynamic; i++)
    if (e.dynamic[i].d_tag == DT_FLAGS_1 && e.dynamic[i].d_un.d_val & DF_1_NODELETE) set = true;
  ds_file_unmap(&e.file);
  NEED(set, "not linked with -Wl,-z,nodelete: threads and handlers would outlive its code");
}

/* Instrumented builds find these in the program. */
static bool of_sanitizer(const char *name) {
  return strstr(name, "asan") || strstr(name, "ubsan") || strstr(name, "tsan") ||
         strstr(name, "sanitizer");
}

/* Whether one of the libraries that the plugin says it needs (or they do) has the symbol. */
static bool provided(const elf *e, const char *name) {
  for (size_t i = 0; i < e->n_dynamic; i++) {
    if (e->dynamic[i].d_tag != DT_NEEDED || e->dynamic[i].d_un.d_val >= e->dynamic_room) continue;
    void *so =
        dlopen(e->dynamic_names + e->dynamic[i].d_un.d_val, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
    bool there = so && dlsym(so, name);
    if (so) dlclose(so);
    if (there) return true;
  }
  return false;
}

static void symbols(conformance *k, tally *t) {
  elf e;
  ds_error err = {0};
  if (!open_elf(k, &e, t)) return;
  char missing[300] = "";
  int count = 0;
  if (!load_query(k->path, &err)) check_fail(t, "%s", err.message);
  for (size_t i = 1; i < e.n_symbols && !t->failed; i++) {
    const Elf64_Sym *s = &e.symbols[i];
    const char *name = symbol_name(&e, s);
    if (s->st_shndx != SHN_UNDEF || ELF64_ST_BIND(s->st_info) == STB_WEAK) continue;
    if (of_sanitizer(name) || provided(&e, name)) continue;
    size_t used = strlen(missing);
    if (count++ < 5) snprintf(missing + used, sizeof missing - used, " %.40s", name);
  }
  ds_file_unmap(&e.file);
  if (count > 0)
    check_fail(t,
               "%d undefined symbols that no library it needs provides:%s; link those libraries, "
               "and link with -Wl,-z,defs",
               count, missing);
}

UNIT_OF(note, "note")
UNIT_OF(exports, "exports")
UNIT_OF(nodelete, "nodelete")
UNIT_OF(symbols, "symbols")

const unit elf_units[] = {{"note", unit_note, NEEDS_PLUGIN, false},
                          {"exports", unit_exports, NEEDS_NOTHING, false},
                          {"nodelete", unit_nodelete, NEEDS_NOTHING, false},
                          {"symbols", unit_symbols, NEEDS_NOTHING, false},
                          {0}};
