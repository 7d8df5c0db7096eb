/* test_note.c - the ELF note: read from a real plugin, from what is left of it, from other files.
 */
#include "backend/note.h"

#include <elf.h>
#include <stdlib.h>

#include "backend/plugin_folder.h"
#include "base/rng.h"

typedef struct image {
  char *data;
  size_t size;
} image;

static image load(const char *name) {
  image m = {0};
  ds_error err;
  char path[1024];
  snprintf(path, sizeof path, "%s/%s.so", TEST_PLUGIN_DIR, name);
  CHECK_OK(ds_file_read(path, (size_t)1 << 26, &m.data, &m.size, &err), err);
  return m;
}

/* From memory of exactly this size, so that a sanitizer sees every byte too far. */
static ds_status parse_exactly(const void *data, size_t size, ds_note *out, ds_error *err) {
  unsigned char *copy = malloc(size ? size : 1);
  memcpy(copy, data, size);
  ds_status status = ds_note_parse(copy, size, out, err);
  free(copy);
  return status;
}

static size_t segments_end(const image *m) {
  Elf64_Ehdr h;
  size_t end = 0;
  memcpy(&h, m->data, sizeof h);
  for (unsigned i = 0; i < h.e_phnum; i++) {
    Elf64_Phdr p;
    memcpy(&p, m->data + h.e_phoff + i * sizeof p, sizeof p);
    if (p.p_offset + p.p_filesz > end) end = p.p_offset + p.p_filesz;
  }
  return end;
}

static void test_valid(void) {
  ds_error err;
  ds_note n;
  CHECK_OK(ds_note_read(TEST_PLUGIN_DIR "/floor.so", &n, &err), err);
  CHECK(strcmp(n.name, "floor") == 0);
  CHECK(strcmp(n.version, "1.2.3") == 0);
  CHECK(strcmp(n.needs, "nothing") == 0);
  CHECK(n.priority == 150);
  CHECK(n.abi.major == DS_ABI_MAJOR && n.abi.max_minor == DS_ABI_MINOR);
}

static void test_truncated(void) {
  image m = load("floor");
  size_t end = segments_end(&m);
  ds_error err;
  ds_note n;
  CHECK(end > 1000 && end <= m.size);
  for (size_t cut = 0; cut < m.size; cut++) {
    bool accepted = parse_exactly(m.data, cut, &n, &err) == DS_OK;
    if (accepted != (cut >= end)) {
      CHECK(!"a truncated plugin is refused, one without its section headers is not");
      fprintf(stderr, "cut at %zu of %zu, segments end at %zu\n", cut, m.size, end);
      break;
    }
  }
  CHECK_FAILS(parse_exactly(m.data, 0, &n, &err), DS_ERR_FORMAT, err, "empty");
  CHECK_FAILS(parse_exactly(m.data, 3, &n, &err), DS_ERR_FORMAT, err, "no ELF header");
  CHECK_FAILS(parse_exactly(m.data, 20, &n, &err), DS_ERR_FORMAT, err, "truncated");
  CHECK_FAILS(parse_exactly(m.data, 100, &n, &err), DS_ERR_FORMAT, err, "truncated");
  CHECK_FAILS(parse_exactly(m.data, end - 1, &n, &err), DS_ERR_FORMAT, err, "copy it again");
  free(m.data);
}

static bool is_sane(const ds_note *n) {
  return memchr(n->name, 0, sizeof n->name) && memchr(n->version, 0, sizeof n->version) &&
         memchr(n->needs, 0, sizeof n->needs) && n->name[0] && n->abi.min_minor <= n->abi.max_minor;
}

/* Any one bit flipped, and then many at once: an answer, and never a broken note. */
static void test_damaged(void) {
  image m = load("floor");
  ds_error err;
  ds_note n;
  bool sane = true;
  size_t refused = 0;
  for (size_t bit = 0; bit < m.size * 8; bit++) {
    m.data[bit / 8] ^= (char)(1 << bit % 8);
    if (ds_note_parse((unsigned char *)m.data, m.size, &n, &err) == DS_OK)
      sane = sane && is_sane(&n);
    else
      refused++;
    m.data[bit / 8] ^= (char)(1 << bit % 8);
  }
  CHECK(sane);
  CHECK(refused > 200);
  ds_rng rng;
  ds_rng_init(&rng, 1, 0);
  for (int round = 0; round < 2000; round++) {
    image copy = {malloc(m.size), m.size};
    memcpy(copy.data, m.data, m.size);
    for (int i = 0; i < 8; i++) copy.data[ds_rng_below(&rng, 1024)] = (char)ds_rng_next(&rng);
    if (ds_note_parse((unsigned char *)copy.data, copy.size, &n, &err) == DS_OK)
      sane = sane && is_sane(&n);
    free(copy.data);
  }
  CHECK(sane);
  free(m.data);
}

/* One byte of the ELF header or of the note changed on purpose. */
static void check_changed(size_t at, char value, const char *text) {
  image m = load("floor");
  ds_error err;
  ds_note n;
  m.data[at] = value;
  CHECK_FAILS(ds_note_parse((unsigned char *)m.data, m.size, &n, &err), DS_ERR_FORMAT, err, text);
  free(m.data);
}

static size_t find_note(void) {
  image m = load("floor");
  char *p = memmem(m.data, m.size, "dscore\0", 8);
  CHECK(p != NULL);
  size_t at = p ? (size_t)(p - m.data) + 8 : 0; /* of ds_note */
  free(m.data);
  return at;
}

static void test_foreign(void) {
  ds_error err;
  ds_note n;
  size_t note = find_note();
  check_changed(EI_CLASS, ELFCLASS32, "64-bit");
  check_changed(EI_DATA, 7, "byte order");
  check_changed(offsetof(Elf64_Ehdr, e_machine), EM_S390, "this process is");
  check_changed(offsetof(Elf64_Ehdr, e_type), ET_EXEC, "no shared object");
  check_changed(offsetof(Elf64_Ehdr, e_phnum), 0, "no usable program headers (0 of");
  check_changed(offsetof(Elf64_Ehdr, e_phnum) + 1, 1, "no usable program headers (26");
  check_changed(note + offsetof(ds_note, size), 1, "wrong size");
  check_changed(note + offsetof(ds_note, name), 'F', "invalid name");
  check_changed(note + offsetof(ds_note, name), 0, "invalid name");
  check_changed(note + offsetof(ds_note, abi) + offsetof(ds_version_range, min_minor), 77, "empty");
  CHECK_FAILS(ds_note_read(TEST_PLUGIN_DIR "/no_note.so", &n, &err), DS_ERR_FORMAT, err,
              "without a dscore note");
  CHECK_FAILS(ds_note_read(__FILE__ "-is-not-here", &n, &err), DS_ERR_NOT_FOUND, err,
              "cannot open");
  CHECK_FAILS(ds_note_parse((const unsigned char *)"#!/bin/sh\n", 10, &n, &err), DS_ERR_FORMAT, err,
              "not a shared object");
}

static void test_names_of_core(void) {
  image m = load("floor");
  ds_error err;
  ds_note n;
  strcpy(m.data + find_note() + offsetof(ds_note, name), "auto");
  CHECK_FAILS(ds_note_parse((unsigned char *)m.data, m.size, &n, &err), DS_ERR_FORMAT, err,
              "core's own");
  memset(m.data + find_note() + offsetof(ds_note, needs), 'x', sizeof n.needs);
  CHECK_FAILS(ds_note_parse((unsigned char *)m.data, m.size, &n, &err), DS_ERR_FORMAT, err,
              "without an end");
  free(m.data);
}

static void test_negotiate(void) {
  ds_error err;
  const ds_version_range host = {0, 2, 5, 0};
  const ds_version_range fits[] = {{0, 2, 5, 0}, {0, 1, 2, 0}, {0, 5, 9, 0}, {0, 3, 3, 0}};
  for (size_t i = 0; i < sizeof fits / sizeof *fits; i++)
    CHECK_OK(ds_note_negotiate(host, fits[i], &err), err);
  CHECK_FAILS(ds_note_negotiate(host, (ds_version_range){0, 0, 1, 0}, &err), DS_ERR_VERSION, err,
              "speaks ABI 0.0 to 0.1, this dscore speaks 0.2 to 0.5: upgrade the plugin");
  CHECK_FAILS(ds_note_negotiate(host, (ds_version_range){0, 6, 9, 0}, &err), DS_ERR_VERSION, err,
              "upgrade dscore");
  CHECK_FAILS(ds_note_negotiate(host, (ds_version_range){1, 2, 5, 0}, &err), DS_ERR_VERSION, err,
              "upgrade dscore");
}

int main(void) {
  test_valid();
  test_truncated();
  test_damaged();
  test_foreign();
  test_names_of_core();
  test_negotiate();
  return TEST_RESULT();
}
