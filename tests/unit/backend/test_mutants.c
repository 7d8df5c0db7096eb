/* test_mutants.c - a good plugin with a few bytes changed, hundreds of times, each through the
 * whole loader: the host lives, and has a reason or a plugin with whole tables.
 *
 * Which bytes is decided by a seed, and addresses are not randomized, so that a run repeats. A
 * mutant that loads may be wrong in ways that show only when it works, or when its destructors run:
 * that is beyond any loader, so nothing of it is called here, and the program ends by _exit. */
#include <dlfcn.h>
#include <elf.h>
#include <stdlib.h>
#include <sys/personality.h>
#include <unistd.h>

#include "backend/discovery.h"
#include "backend/loader.h"
#include "backend/plugin_folder.h"
#include "base/rng.h"

enum { EACH = 60 };

typedef struct range {
  const char *what;
  size_t from, size;
} range;

static size_t segment(const char *data, uint32_t type, size_t *size) {
  Elf64_Ehdr h;
  memcpy(&h, data, sizeof h);
  for (unsigned i = 0; i < h.e_phnum; i++) {
    Elf64_Phdr p;
    memcpy(&p, data + h.e_phoff + i * sizeof p, sizeof p);
    if (p.p_type != type ||
        (type == PT_NOTE && !memmem(data + p.p_offset, p.p_filesz, "dscore", 7)))
      continue;
    *size = p.p_filesz;
    return p.p_offset;
  }
  CHECK(!"the plugin has such a segment");
  return 0;
}

static void mutate(char *data, const range *where, ds_rng *rng) {
  int changes = 1 + (int)ds_rng_below(rng, 4);
  for (int i = 0; i < changes; i++) {
    char *byte = data + where->from + ds_rng_below(rng, (uint32_t)where->size);
    if (ds_rng_below(rng, 2))
      *byte ^= (char)(1 << ds_rng_below(rng, 8));
    else
      *byte = (char)ds_rng_next(rng);
  }
}

typedef struct tally {
  int loaded, unrun, refused; /* good; refused by what was read; by what was tried */
} tally;

static void load(const char *file, const range *where, int round, tally *t) {
  ds_candidates c;
  ds_error err;
  const ds_loaded *loaded = NULL;
  char *entry = (char *)(uintptr_t)file;
  CHECK_OK(ds_discovery_find(&entry, 1, &c, &err), err);
  CHECK(c.count > 0 && c.items[0].path && strcmp(c.items[0].path, file) == 0);
  err.message[0] = '\0';
  ds_status status = ds_loader_load(&c.items[0], 2, NULL, &loaded, &err);
  bool good = status == DS_OK
                  ? loaded && ds_loaded_plugin(loaded)->device &&
                        ds_loaded_plugin(loaded)->device->open &&
                        strcmp(ds_loaded_plugin(loaded)->name, c.items[0].note.name) == 0
                  : strlen(err.message) > 10;
  CHECK(good);
  if (!good) fprintf(stderr, "%s, round %d: %s\n", where->what, round, err.message);
  if (getenv("DS_TEST_SHOW")) printf("%s %d: %d %s\n", where->what, round, status, err.message);
  if (status == DS_OK) t->loaded++;
  if (c.items[0].status != DS_OK) t->unrun++;
  if (status != DS_OK && c.items[0].status == DS_OK) t->refused++;
  ds_discovery_finish(&c);
}

/* Without the fsync of plugin_folder_write, which would be most of the test's time. */
static const char *write_file(plugin_folder *f, const char *data, size_t size) {
  const char *path = plugin_folder_name(f, "mutant");
  FILE *file = fopen(path, "w");
  CHECK(file && fwrite(data, 1, size, file) == size && fclose(file) == 0);
  return path;
}

static void test_mutants(const range *where, const char *data, size_t size, ds_rng *rng, tally *t) {
  char *mutant = malloc(size);
  for (int round = 0; round < EACH; round++) {
    plugin_folder f;
    memcpy(mutant, data, size);
    mutate(mutant, where, rng);
    plugin_folder_make(&f);
    load(write_file(&f, mutant, size), where, round, t);
    plugin_folder_remove(&f);
  }
  free(mutant);
}

/* Cut off anywhere; what a shorter file lacks is no more than its section headers when it loads. */
static void test_truncated(const char *data, size_t size, ds_rng *rng, tally *t) {
  const range where = {"truncated", 0, size};
  for (int round = 0; round < EACH; round++) {
    plugin_folder f;
    plugin_folder_make(&f);
    load(write_file(&f, data, ds_rng_below(rng, (uint32_t)size)), &where, round, t);
    plugin_folder_remove(&f);
  }
}

int main(int argc, char **argv) {
  int now = personality(0xffffffff);
  if (argc == 1 && now >= 0 && !(now & ADDR_NO_RANDOMIZE) &&
      personality((unsigned)now | ADDR_NO_RANDOMIZE) >= 0)
    execl("/proc/self/exe", argv[0], "again", (char *)NULL);
  char *data;
  size_t size, dynamic_size, note_size;
  ds_error err;
  ds_rng rng;
  tally t = {0};
  CHECK_OK(ds_file_read(TEST_PLUGIN_DIR "/floor.so", (size_t)1 << 26, &data, &size, &err), err);
  Elf64_Ehdr h;
  memcpy(&h, data, sizeof h);
  size_t dynamic = segment(data, PT_DYNAMIC, &dynamic_size);
  size_t note = segment(data, PT_NOTE, &note_size);
  const range ranges[] = {{"header", 0, sizeof h},
                          {"program headers", h.e_phoff, h.e_phnum * sizeof(Elf64_Phdr)},
                          {"dynamic section", dynamic, dynamic_size},
                          {"notes", note, note_size},
                          {"tables of the linker", h.e_phoff, 0x1000 - h.e_phoff},
                          {"anywhere", 0, size}};
  ds_rng_init(&rng, 20, 0);
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
    test_mutants(&ranges[i], data, size, &rng, &t);
  test_truncated(data, size, &rng, &t);
  free(data);
  printf("%d loaded, %d refused by what stands in them, %d by what they did\n", t.loaded, t.unrun,
         t.refused);
  CHECK(t.loaded > 20 && t.unrun > 100 && t.refused > 10);
  fflush(stdout);
  _exit(TEST_RESULT());
}
