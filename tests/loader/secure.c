/* secure.c - a set-uid program must not load what its caller names: in one, DS_PLUGIN_PATH and
 * DS_BACKEND are ignored. The test runs copies of itself as another user, once set-uid and once
 * not. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "ds.h"
#include "test.h"

enum { SKIP = 77, NOBODY = 65534 };

/* The copy: tells what it found, a line each. */
static int tell(void) {
  ds_backend_candidate *list;
  size_t n;
  ds_error err;
  printf("secure %lu\n", getauxval(AT_SECURE));
  if (ds_backend_list(NULL, &list, &n, &err) != DS_OK) return printf("%s\n", err.message), 1;
  for (size_t i = 0; i < n; i++)
    printf("%s %s %s\n", list[i].state, list[i].name ? list[i].name : "?",
           list[i].path ? list[i].path : "-");
  ds_backend_list_destroy(list, n);
  return 0;
}

static void copy(const char *from, const char *to, mode_t mode) {
  char *data;
  size_t size;
  ds_error err;
  CHECK_OK(ds_file_read(from, (size_t)1 << 28, &data, &size, &err), err);
  CHECK_OK(ds_file_write(to, data, size, &err), err);
  CHECK(chmod(to, mode) == 0);
  free(data);
}

/* What a program says as another user whose environment names folder and a backend. */
static void run_as_nobody(const char *program, const char *folder, char *said, size_t size) {
  char path[256];
  int ends[2], status = -1;
  size_t length = 0;
  ssize_t n;
  snprintf(path, sizeof path, "DS_PLUGIN_PATH=%s", folder);
  CHECK(pipe(ends) == 0);
  pid_t child = fork();
  if (child == 0) {
    char *argv[] = {(char *)(uintptr_t)program, (char *)(uintptr_t) "tell", NULL};
    char *environment[] = {path, (char *)(uintptr_t) "DS_BACKEND=nosuch",
                           (char *)(uintptr_t) "ASAN_OPTIONS=detect_leaks=0", NULL};
    if (dup2(ends[1], 1) < 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0) _exit(99);
    execve(program, argv, environment);
    _exit(98);
  }
  close(ends[1]);
  while (length + 1 < size && (n = read(ends[0], said + length, size - 1 - length)) > 0)
    length += (size_t)n;
  said[length] = '\0';
  close(ends[0]);
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "tell") == 0) return tell();
  if (geteuid() != 0) return printf("skipped: only root can make a set-uid program\n"), SKIP;
  char folder[] = "/tmp/dscore-test-XXXXXX", plain[64], secure[64], plugins[64], plugin[96];
  char said[8192], command[96];
  struct statvfs fs;
  CHECK(mkdtemp(folder) && chmod(folder, 0755) == 0 && statvfs(folder, &fs) == 0);
  snprintf(plain, sizeof plain, "%s/plain", folder);
  snprintf(secure, sizeof secure, "%s/secure", folder);
  snprintf(plugins, sizeof plugins, "%s/named", folder);
  snprintf(plugin, sizeof plugin, "%s/dscore_floor.so", plugins);
  CHECK(mkdir(plugins, 0755) == 0);
  copy("/proc/self/exe", plain, 0755);
  copy("/proc/self/exe", secure, 04755);
  copy(TEST_PLUGIN_DIR "/floor.so", plugin, 0644);

  run_as_nobody(plain, plugins, said, sizeof said); /* both count */
  CHECK(strstr(said, "secure 0\n") && strstr(said, "available floor") && !strstr(said, "chosen"));
  run_as_nobody(secure, plugins, said, sizeof said); /* neither does */
  bool possible = !(fs.f_flag & ST_NOSUID) && strstr(said, "secure 1\n");
  if (possible) CHECK(!strstr(said, "floor") && strstr(said, "chosen"));
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  CHECK(system(command) == 0);
  if (!possible && TEST_RESULT() == 0)
    return printf("skipped: set-uid programs have no effect in /tmp here\n"), SKIP;
  return TEST_RESULT();
}
