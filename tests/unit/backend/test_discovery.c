/* test_discovery.c - where plugins may lie, what is looked at, and what is refused unrun. */
#include "backend/discovery.h"

#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/note.h"
#include "backend/plugin_folder.h"

enum { NOBODY = 65534 };

/* /tmp/dscore-test-XXXXXX with folders a and a/b. */
typedef struct tree {
  char root[64], a[80], b[96];
} tree;

static void tree_make(tree *t) {
  strcpy(t->root, "/tmp/dscore-test-XXXXXX");
  CHECK(mkdtemp(t->root) != NULL && chmod(t->root, 0755) == 0);
  snprintf(t->a, sizeof t->a, "%s/a", t->root);
  snprintf(t->b, sizeof t->b, "%s/b", t->a);
  CHECK(mkdir(t->a, 0755) == 0 && mkdir(t->b, 0755) == 0);
}

static void tree_remove(const tree *t) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", t->root);
  CHECK(system(command) == 0);
}

/* A copy of a test plugin as FOLDER/dscore_NAME.so; its path stays valid until the next call. */
static const char *copy_plugin(const char *folder, const char *name, const char *plugin) {
  static char path[256];
  char from[1024], *data;
  size_t size;
  ds_error err;
  snprintf(from, sizeof from, "%s/%s.so", TEST_PLUGIN_DIR, plugin);
  snprintf(path, sizeof path, "%s/dscore_%s.so", folder, name);
  CHECK_OK(ds_file_read(from, (size_t)1 << 26, &data, &size, &err), err);
  CHECK_OK(ds_file_write(path, data, size, &err), err);
  CHECK(chmod(path, 0644) == 0);
  free(data);
  return path;
}

/* Searches one entry; the candidate whose path has `part` must be refused with `text`, or, where
 * text is NULL, be fine. */
static void check_found(const char *entry, const char *part, const char *text) {
  ds_candidates c;
  ds_error err;
  char *entries[] = {(char *)(uintptr_t)entry};
  CHECK_OK(ds_discovery_find(entries, 1, &c, &err), err);
  const ds_candidate *found = NULL;
  for (size_t i = 0; i < c.count && !found; i++)
    if (c.items[i].path && strstr(c.items[i].path, part)) found = &c.items[i];
  bool good = found && (text ? found->status != DS_OK && strstr(found->reason, text)
                             : found->status == DS_OK && !found->reason);
  CHECK(good);
  if (!good)
    fprintf(stderr, "%s, searched for in %s: %s, wanted: %s\n", part, entry,
            !found          ? "not found"
            : found->reason ? found->reason
                            : "good",
            text ? text : "good");
  ds_discovery_finish(&c);
}

static void test_folders_above(void) {
  tree t;
  tree_make(&t);
  const char *file = copy_plugin(t.b, "floor", "floor");
  check_found(t.b, "dscore_floor.so", NULL);
  check_found(file, "dscore_floor.so", NULL);

  CHECK(chmod(t.a, 0777) == 0);
  check_found(t.b, t.b, "/a above it may be written by anybody; run: chmod o-w");
  check_found(file, "dscore_floor.so", "/a above it may be written by anybody");
  CHECK(chmod(t.a, 01777) == 0); /* sticky, like /tmp */
  check_found(t.b, "dscore_floor.so", NULL);
  CHECK(chmod(t.a, 0775) == 0); /* a group: somebody's decision */
  check_found(t.b, "dscore_floor.so", NULL);
  CHECK(chmod(t.b, 01777) == 0); /* searched itself: anybody could add a file */
  check_found(t.b, t.b, "the folder may be written by anybody");
  CHECK(chmod(t.b, 0775) == 0 && chmod(file, 0666) == 0);
  check_found(t.b, "dscore_floor.so", "the file may be written by anybody");
  CHECK(chmod(file, 0664) == 0);
  check_found(t.b, "dscore_floor.so", NULL);

  if (geteuid() == 0) {
    CHECK(chown(t.a, NOBODY, NOBODY) == 0);
    check_found(t.b, t.b, "/a above it belongs to user 65534");
    CHECK(chown(t.a, 0, 0) == 0 && chown(t.b, NOBODY, NOBODY) == 0);
    check_found(t.b, t.b, "the folder belongs to user 65534, not to root or to this user (0)");
    CHECK(chown(t.b, 0, 0) == 0 && chown(file, NOBODY, NOBODY) == 0);
    check_found(t.b, "dscore_floor.so", "the file belongs to user 65534");
  }
  tree_remove(&t);
}

/* What a link leads to counts. */
static void test_links(void) {
  tree t;
  char link_[128], other[128];
  tree_make(&t);
  const char *file = copy_plugin(t.b, "floor", "floor");
  snprintf(link_, sizeof link_, "%s/dscore_link.so", t.root);
  CHECK(symlink(file, link_) == 0);
  check_found(t.root, "dscore_floor.so", NULL); /* found by the link, listed where it ends */
  CHECK(chmod(t.a, 0777) == 0);
  check_found(t.root, "dscore_floor.so", "/a above it may be written by anybody");
  CHECK(chmod(t.a, 0755) == 0 && unlink(link_) == 0);

  snprintf(other, sizeof other, "%s/dscore_pong.so", t.root);
  CHECK(symlink(other, link_) == 0 && symlink(link_, other) == 0);
  check_found(t.root, "dscore_link.so", "can't be reached: Too many levels of symbolic links");
  CHECK(unlink(link_) == 0 && unlink(other) == 0);
  CHECK(symlink("/nowhere/dscore_x.so", link_) == 0);
  check_found(t.root, "dscore_link.so", "can't be reached: No such file or directory");
  CHECK(unlink(link_) == 0);

  snprintf(link_, sizeof link_, "%s/folder", t.root); /* a link as the folder */
  CHECK(symlink(t.b, link_) == 0);
  check_found(link_, "dscore_floor.so", NULL);
  CHECK(chmod(t.a, 0777) == 0);
  check_found(link_, "folder", "/a above it may be written by anybody");
  tree_remove(&t);
}

/* Nothing but a regular file is opened: a pipe would wait for ever. */
static void test_other_files(void) {
  tree t;
  char path[128];
  tree_make(&t);
  snprintf(path, sizeof path, "%s/dscore_pipe.so", t.a);
  CHECK(mkfifo(path, 0600) == 0);
  check_found(t.a, "dscore_pipe.so", "not a regular file but a pipe, socket or device");
  check_found(path, "dscore_pipe.so", "not a regular file");
  snprintf(path, sizeof path, "%s/dscore_folder.so", t.a);
  CHECK(mkdir(path, 0700) == 0);
  check_found(t.a, "dscore_folder.so", "not a regular file but a folder");
  snprintf(path, sizeof path, "%s/dscore_device.so", t.a);
  CHECK(symlink("/dev/zero", path) == 0);
  check_found(t.a, "/dev/zero", "not a regular file");
  if (geteuid() != 0) {
    const char *file = copy_plugin(t.b, "secret", "floor");
    CHECK(chmod(file, 0) == 0);
    check_found(t.b, "dscore_secret.so", "can't be read: Permission denied");
  }
  tree_remove(&t);
}

/* However the current folder is spelt, what lies there is not looked at. */
static void test_current_folder(void) {
  static const char *const spellings[] = {"",        ".",
                                          "./",      "..",
                                          "a",       "~",
                                          "./a/../", "$PWD",
                                          "file:/",  "dscore_floor.so",
                                          " /tmp",   "./dscore_floor.so"};
  tree t;
  char before[4096];
  ds_candidates c;
  ds_error err;
  CHECK(getcwd(before, sizeof before) != NULL);
  tree_make(&t);
  copy_plugin(t.root, "floor", "constructor_exit");
  copy_plugin(t.a, "floor", "constructor_exit");
  CHECK(chdir(t.root) == 0);
  for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
    char *entry = (char *)(uintptr_t)spellings[i];
    CHECK_OK(ds_discovery_find(&entry, 1, &c, &err), err);
    for (size_t j = 0; j < c.count; j++)
      CHECK(!c.items[j].path || !strstr(c.items[j].path, t.root)); /* not even listed */
    CHECK(c.count > 0 && c.items[0].status == DS_ERR_INVALID &&
          strstr(c.items[0].reason, "must be absolute"));
    ds_discovery_finish(&c);
  }
  CHECK_OK(ds_discovery_find(NULL, 0, &c, &err), err);
  for (size_t j = 0; j < c.count; j++) CHECK(!c.items[j].path || !strstr(c.items[j].path, t.root));
  ds_discovery_finish(&c);

  /* In the variable, empty parts count for nothing. */
  setenv("DS_PLUGIN_PATH", "::  : ", 1);
  ds_backend_config config;
  CHECK_OK(ds_backend_config_parse(NULL, &config, &err), err);
  CHECK(config.n_plugin_path == 0);
  ds_backend_config_finish(&config);
  unsetenv("DS_PLUGIN_PATH");
  CHECK(chdir(before) == 0);
  tree_remove(&t);
}

/* Puts other words, no longer, where they stand in a file. */
static void patch(const char *path, const char *from, const char *to) {
  char *data;
  size_t size;
  ds_error err;
  CHECK_OK(ds_file_read(path, (size_t)1 << 26, &data, &size, &err), err);
  char *at = memmem(data, size, from, strlen(from) + 1);
  CHECK(at && strlen(to) <= strlen(from));
  if (at) memcpy(at, to, strlen(to) + 1);
  CHECK_OK(ds_file_write(path, data, size, &err), err);
  free(data);
}

/* A plugin that would let the linker look in the current folder for what it needs. */
static void test_search_of_linker(void) {
  static const char given[] = "/dscore/one:/dscore/two";
  static const char *const bad[] = {"xdscore/one:/dscore/two", "./score/one:/dscore/two",
                                    "/dscore/one::dscore/two", "/dscore/one:/dscore/tw:",
                                    ":dscore/one:/dscore/two", "/dscore/one:$LIB/re/two",
                                    "/dscore/one:.",           "/dscore/one:"};
  static const char *const good[] = {given, "$ORIGIN/one:/dscore/two", "/dscore/one", ""};
  static const char *const plugins[] = {"runpath", "rpath"};
  tree t;
  tree_make(&t);
  for (size_t p = 0; p < 2; p++) {
    copy_plugin(t.a, "path", plugins[p]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
      patch(copy_plugin(t.a, "path", plugins[p]), given, bad[i]);
      check_found(t.a, "dscore_path.so", "has an empty or relative part");
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
      patch(copy_plugin(t.a, "path", plugins[p]), given, good[i]);
      check_found(t.a, "dscore_path.so", NULL);
    }
  }
  patch(copy_plugin(t.a, "path", "dependency"), "libds_test_gone.so.7", "./bds_test_gone.so.7");
  check_found(t.a, "dscore_path.so", "needs the library \"./bds_test_gone.so.7\", a relative path");
  tree_remove(&t);
}

/* Of another machine: refused by what stands in the file, never loaded. */
static void test_machines(void) {
  static const struct {
    size_t at;
    unsigned char byte;
    const char *text;
  } cases[] = {
      {EI_CLASS, ELFCLASS32, "not a 64-bit shared object (ELF class 1)"},
      {EI_DATA, __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2MSB : ELFDATA2LSB,
       "of another byte order"},
      {offsetof(Elf64_Ehdr, e_machine), EM_386, "built for x86 (32-bit) (ELF machine 3)"},
      {offsetof(Elf64_Ehdr, e_machine), EM_MIPS, "built for another machine (ELF machine 8)"},
      {offsetof(Elf64_Ehdr, e_type), ET_REL, "no shared object (type 1)"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    tree t;
    tree_make(&t);
    const char *path = copy_plugin(t.a, "foreign", "constructor_exit");
    FILE *f = fopen(path, "r+");
    CHECK(f && fseek(f, (long)cases[i].at, SEEK_SET) == 0 && fputc(cases[i].byte, f) >= 0 &&
          (cases[i].at < EI_NIDENT || fputc(0, f) >= 0) && fclose(f) == 0);
    check_found(t.a, "dscore_foreign.so", cases[i].text);
    tree_remove(&t);
  }
}

/* A note in a file that has shrunk meanwhile is a reason, no SIGBUS. */
static void test_shrinking(void) {
  tree t;
  ds_note note;
  ds_error err;
  tree_make(&t);
  const char *path = copy_plugin(t.a, "floor", "floor");
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  CHECK_OK(ds_note_read_fd(fd, &note, &err), err);
  CHECK(truncate(path, 300) == 0);
  CHECK_FAILS(ds_note_read_fd(fd, &note, &err), DS_ERR_FORMAT, err, "truncated");
  close(fd);
  tree_remove(&t);
}

int main(void) {
  umask(022);
  test_folders_above();
  test_links();
  test_other_files();
  test_current_folder();
  test_search_of_linker();
  test_machines();
  test_shrinking();
  return TEST_RESULT();
}
