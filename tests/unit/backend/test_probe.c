/* test_probe.c - plugins that crash, hang, exit, print or answer nonsense while they are loaded:
 * the host lives and is told why; and hosts that make a probe's life hard. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "backend/discovery.h"
#include "backend/loader.h"
#include "backend/plugin_folder.h"
#include "ds.h"

/* The program's own fork, before the C library's. */
static int forks;
static bool refuse_fork;

pid_t fork(void) {
  pid_t (*real)(void);
  void *symbol = dlsym(RTLD_NEXT, "fork");
  memcpy(&real, &symbol, sizeof real);
  forks++;
  if (!refuse_fork) return real();
  errno = EAGAIN;
  return -1;
}

static const ds_backend_candidate *find(const ds_backend_candidate *list, size_t n,
                                        const char *name) {
  for (size_t i = 0; i < n; i++)
    if (list[i].name && strcmp(list[i].name, name) == 0) return &list[i];
  return NULL;
}

/* Whether ds_backend_list gives the same reason. */
static void check_listed(const char *name, const char *json, const char *text) {
  char config[128];
  ds_backend_candidate *list;
  size_t n;
  ds_error err;
  snprintf(config, sizeof config, "{\"backend\": {\"device\": 0%s}}", json);
  CHECK_OK(ds_backend_list(config, &list, &n, &err), err);
  const ds_backend_candidate *c = find(list, n, name);
  CHECK(c && strcmp(c->state, "rejected") == 0 && strstr(c->reason, text));
  ds_backend_list_destroy(list, n);
}

/* Opens one plugin, by a link to it, or by a copy, which nobody has judged yet. */
static ds_status open_one(const char *name, bool copy, const char *json, memory_log *log,
                          ds_error *err) {
  plugin_folder f;
  ds_backend *b;
  char section[128], path[1024], *data;
  size_t size;
  plugin_folder_make(&f);
  if (copy) {
    snprintf(path, sizeof path, "%s/%s.so", TEST_PLUGIN_DIR, name);
    CHECK_OK(ds_file_read(path, (size_t)1 << 26, &data, &size, err), *err);
    plugin_folder_write(&f, name, data, size);
    free(data);
  } else {
    plugin_folder_link(&f, name);
  }
  snprintf(section, sizeof section, "{\"name\": \"%s\"%s}", name, json);
  ds_status status = open_backend(section, &f, log, &b, err);
  ds_backend_close(b);
  plugin_folder_remove(&f);
  return status;
}

static void test_verdicts(void) {
  static const struct {
    const char *file, *json, *text;
  } cases[] = {
      {"constructor_segv", "",
       "crashes with SIGSEGV in its constructor, at constructor_segv.so+0x"},
      {"constructor_ill", "", "crashes with SIGILL in its constructor"},
      {"constructor_abort", "", "crashes with SIGABRT in its constructor"},
      {"constructor_overflow", "", "crashes with SIGSEGV in its constructor"},
      {"constructor_hang", ", \"probe_timeout\": 1",
       "did not finish within 1 s: it hangs in its "
       "constructor"},
      {"constructor_stop", ", \"probe_timeout\": 1", "did not finish within 1 s"},
      {"constructor_exit", "", "ends the process with exit status 3 in its constructor"},
      {"constructor_exit_now", "", "ends the process with exit status 4 in its constructor"},
      {"constructor_quick", "", "ends the process"},
      {"constructor_print", "",
       "prints to standard output when it is loaded (\"hello from a "
       "plugin\"); a plugin logs through ds_host"},
      {"constructor_buffered", "", "prints to standard output when it is loaded (\"buffered words"},
      {"constructor_daemon", "", "ends the process with exit status 0 in its constructor"},
      {"constructor_terminate", "", "crashes with SIGTERM in its constructor"},
      {"constructor_close", "", "closes file descriptors that are not its own"},
      {"query_segv", "", "crashes with SIGSEGV in its query, at query_segv.so+0x"},
      {"query_ill", "", "it was built for another processor"},
      {"query_hang", ", \"probe_timeout\": 1", "it hangs in its query"},
      {"query_exit", "", "ends the process with exit status 3 in its query"},
      {"query_print", "", "prints to standard output"},
      {"answer_unmapped", "", "crashes with SIGSEGV while its answer was read"},
      {"answer_misaligned", "", "lies at a misaligned address"},
      {"answer_huge_table", "", "its device table says that it has 4294967280 bytes"},
      {"answer_name_lost", "", "crashes with SIGSEGV while its answer was read"},
      {"answer_endless", "", "its version has no end"},
      {"answer_table_lost", "", "crashes with SIGSEGV while its answer was read"},
      {"answer_no_code", "", "while its answer was read"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ds_error err;
    plugin_folder f;
    CHECK_FAILS(open_one(cases[i].file, false, cases[i].json, NULL, &err), DS_ERR_NOT_FOUND, err,
                cases[i].text);
    int before = forks; /* the verdict is kept: no second try */
    CHECK_FAILS(open_one(cases[i].file, false, cases[i].json, NULL, &err), DS_ERR_NOT_FOUND, err,
                cases[i].text);
    CHECK(forks == before);
    plugin_folder_make(&f);
    plugin_folder_link(&f, cases[i].file);
    setenv("DS_PLUGIN_PATH", f.path, 1);
    setenv("DS_BACKEND", "reference", 1);
    check_listed(cases[i].file, cases[i].json, cases[i].text);
    unsetenv("DS_BACKEND");
    plugin_folder_remove(&f);
  }
}

/* A verdict about time is no verdict for those who have more, nor is any for who wants no probe. */
static void test_more_time(void) {
  ds_error err;
  int before = forks;
  CHECK_FAILS(open_one("query_hang", false, ", \"probe_timeout\": 1.5", NULL, &err),
              DS_ERR_NOT_FOUND, err, "did not finish within 1.5 s");
  CHECK(forks > before);
  CHECK_FAILS(open_one("constructor_print", false, ", \"probe_timeout\": 20", NULL, &err),
              DS_ERR_NOT_FOUND, err, "prints to standard output");
  before = forks;
  CHECK_OK(open_one("query_print", false, ", \"probe_timeout\": 0", NULL, &err), err);
  CHECK(forks == before);
}

/* What isn't nice but does no harm. */
static void test_allowed(void) {
  ds_error err;
  memory_log log;
  sigset_t blocked;
  CHECK_OK(open_one("constructor_thread", false, "", &log, &err), err);
  CHECK_OK(open_one("constructor_children", false, "", &log, &err), err);
  CHECK_OK(open_one("constructor_orphan", false, "", &log, &err), err);
  CHECK_OK(open_one("constructor_complain", false, "", &log, &err), err);
  CHECK(strstr(log.text, "constructor_complain prints to standard error when it is loaded: vendor "
                         "library: no licence\n"));
  CHECK_OK(open_one("constructor_rounding", false, "", &log, &err), err);
  CHECK(fegetround() == FE_TONEAREST);
  CHECK_OK(open_one("constructor_signals", false, "", &log, &err), err);
  CHECK(strstr(log.text, "constructor_signals changes the handler of signal 2"));
  struct sigaction now;
  CHECK(sigaction(SIGINT, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
  CHECK(sigaction(SIGUSR1, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
  CHECK(pthread_sigmask(SIG_SETMASK, NULL, &blocked) == 0 && !sigismember(&blocked, SIGTERM));
}

static atomic_int reaped;

static void reap_all(int signal_number) {
  int saved = errno;
  (void)signal_number;
  while (waitpid(-1, NULL, WNOHANG) > 0) reaped++;
  errno = saved;
}

/* Nobody need tell us how the child ended. */
static void test_children_of_others(void) {
  ds_error err;
  struct sigaction action = {.sa_handler = SIG_IGN}, before;
  for (int i = 0; i < 2; i++) {
    sigaction(SIGCHLD, &action, &before);
    CHECK_OK(open_one("floor", true, "", NULL, &err), err);
    CHECK_FAILS(open_one("constructor_segv", true, "", NULL, &err), DS_ERR_NOT_FOUND, err,
                "crashes with SIGSEGV in its constructor");
    CHECK_FAILS(open_one("constructor_exit", true, "", NULL, &err), DS_ERR_NOT_FOUND, err,
                "ends the process with exit status 3");
    CHECK_FAILS(open_one("constructor_exit_now", true, "", NULL, &err), DS_ERR_NOT_FOUND, err,
                "ends the process");
    CHECK_FAILS(open_one("query_hang", true, ", \"probe_timeout\": 1", NULL, &err),
                DS_ERR_NOT_FOUND, err, "hangs in its query");
    sigaction(SIGCHLD, &before, NULL);
    action.sa_handler = reap_all;
  }
  CHECK(reaped > 0);
  CHECK(waitpid(-1, NULL, WNOHANG) <= 0); /* no zombie is left */
}

/* A child that can't be made: refused with the cure, not kept; and the cure works. */
static void test_no_fork(void) {
  ds_error err;
  plugin_folder f;
  ds_backend *b;
  refuse_fork = true;
  CHECK_FAILS(open_one("floor", true, "", NULL, &err), DS_ERR_NOT_FOUND, err,
              "can't be tried in a child process (fork: Resource temporarily unavailable)");
  CHECK(strstr(err.message, "\"probe_timeout\": 0"));
  int before = forks;
  CHECK_OK(open_one("floor", true, ", \"probe_timeout\": 0", NULL, &err), err);
  CHECK(forks == before);
  plugin_folder_make(&f);
  char *data;
  size_t size;
  CHECK_OK(ds_file_read(TEST_PLUGIN_DIR "/floor.so", (size_t)1 << 26, &data, &size, &err), err);
  plugin_folder_write(&f, "floor", data, size);
  CHECK_FAILS(open_backend("\"floor\"", &f, NULL, &b, &err), DS_ERR_NOT_FOUND, err,
              "child process");
  refuse_fork = false;
  CHECK_OK(open_backend("\"floor\"", &f, NULL, &b, &err), err); /* it was no verdict */
  ds_backend_close(b);
  free(data);
  plugin_folder_remove(&f);
}

static int *host_exits; /* shared with children */

static void count_exit(void) {
  ++*host_exits;
}

/* A plugin that ends the child by exit doesn't run what the host registered for its own end. */
static void test_atexit(void) {
  ds_error err;
  host_exits =
      mmap(NULL, sizeof *host_exits, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(host_exits != MAP_FAILED && atexit(count_exit) == 0);
  CHECK_FAILS(open_one("constructor_exit", true, "", NULL, &err), DS_ERR_NOT_FOUND, err,
              "exit status 3");
  CHECK_FAILS(open_one("query_exit", true, "", NULL, &err), DS_ERR_NOT_FOUND, err, "exit status 3");
  CHECK(*host_exits == 0);
}

/* Descriptors 0, 1 and 2 of a host may be closed; its own stay as they are, and what waits in its
 * buffers is written once. */
static void test_descriptors(void) {
  ds_error err;
  int saved[3], ends[2];
  char text[64] = "";
  fflush(NULL);
  for (int i = 0; i < 3; i++) saved[i] = fcntl(i, F_DUPFD_CLOEXEC, 10);
  for (int i = 0; i < 3; i++) close(i);
  ds_status good = open_one("floor", true, "", NULL, &err);
  ds_status bad = open_one("query_print", true, "", NULL, &err);
  bool still_closed = fcntl(0, F_GETFD) < 0 && fcntl(1, F_GETFD) < 0 && fcntl(2, F_GETFD) < 0;
  for (int i = 0; i < 3; i++) {
    dup2(saved[i], i);
    close(saved[i]);
  }
  CHECK(good == DS_OK && bad == DS_ERR_NOT_FOUND && strstr(err.message, "standard output"));
  CHECK(still_closed);

  CHECK(pipe(ends) == 0);
  int out = fcntl(1, F_DUPFD_CLOEXEC, 10);
  dup2(ends[1], 1);
  printf("once"); /* stays in the buffer */
  good = open_one("floor", true, "", NULL, &err);
  bad = open_one("constructor_exit", true, "", NULL, &err);
  fflush(stdout);
  dup2(out, 1);
  close(out);
  close(ends[1]);
  CHECK_OK(good, err);
  CHECK(bad == DS_ERR_NOT_FOUND && strstr(err.message, "exit status 3"));
  CHECK(read(ends[0], text, sizeof text - 1) == 4 && strcmp(text, "once") == 0);
  close(ends[0]);
}

static atomic_bool stop_noise;

static void *make_noise(void *arg) {
  FILE *f = fopen("/dev/null", "w");
  while (f && !stop_noise) {
    for (int i = 0; i < 100; i++) {
      free(malloc((size_t)(i * 37)));
      fprintf(f, "%d\n", i);
    }
    void *library = dlopen(arg, RTLD_NOW | RTLD_LOCAL);
    if (library) dlclose(library);
    poll(NULL, 0, 1); /* else the linker's lock is never free */
  }
  if (f) fclose(f);
  return NULL;
}

/* Other threads hold the locks of malloc, stdio and the linker when the child is made. */
static void test_busy_host(void) {
  pthread_t threads[3];
  ds_error err;
  stop_noise = false;
  for (int i = 0; i < 3; i++)
    CHECK(pthread_create(&threads[i], NULL, make_noise, TEST_PLUGIN_DIR "/partial.so") == 0);
  for (int i = 0; i < 40; i++) CHECK_OK(open_one("floor", true, "", NULL, &err), err);
  stop_noise = true;
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}

/* The file changes after it was found. */
static void test_replaced(void) {
  static const char *const ways[] = {"another file", "written anew"};
  for (int way = 0; way < 2; way++) {
    plugin_folder f;
    ds_candidates c;
    ds_error err;
    const ds_loaded *loaded;
    char *data, *path;
    size_t size, at = 0;
    plugin_folder_make(&f);
    CHECK_OK(ds_file_read(TEST_PLUGIN_DIR "/floor.so", (size_t)1 << 26, &data, &size, &err), err);
    plugin_folder_write(&f, "floor", data, size);
    path = f.path;
    CHECK_OK(ds_discovery_find(&path, 1, &c, &err), err);
    while (at < c.count && strcmp(c.items[at].note.name, "floor") != 0) at++;
    CHECK(at < c.count);
    if (way == 0) {
      CHECK_OK(ds_file_write(f.files[0], data, size, &err), err);
    } else {
      FILE *file = fopen(f.files[0], "r+");
      CHECK(file && fwrite("\0", 1, 1, file) == 1 && fclose(file) == 0);
    }
    if (at < c.count) {
      CHECK_FAILS(ds_loader_load(&c.items[at], 0, NULL, &loaded, &err), DS_ERR_IO, err,
                  "was replaced while it was being loaded");
      if (loaded) fprintf(stderr, "loaded a file that was %s\n", ways[way]);
    }
    ds_discovery_finish(&c);
    free(data);
    plugin_folder_remove(&f);
  }
}

/* A verdict holds for as long as the file stays as it is. */
static void test_mended(void) {
  plugin_folder f;
  ds_backend *b;
  ds_error err;
  char *bad, *good;
  size_t bad_size, good_size;
  plugin_folder_make(&f);
  CHECK_OK(ds_file_read(TEST_PLUGIN_DIR "/query_exit.so", (size_t)1 << 26, &bad, &bad_size, &err),
           err);
  CHECK_OK(ds_file_read(TEST_PLUGIN_DIR "/floor.so", (size_t)1 << 26, &good, &good_size, &err),
           err);
  const char *file = plugin_folder_write(&f, "mended", bad, bad_size);
  CHECK_FAILS(open_backend("\"query_exit\"", &f, NULL, &b, &err), DS_ERR_NOT_FOUND, err,
              "ends the process");
  FILE *again = fopen(file, "w"); /* the same inode */
  CHECK(again && fwrite(good, 1, good_size, again) == good_size && fclose(again) == 0);
  CHECK_OK(open_backend("\"floor\"", &f, NULL, &b, &err), err);
  ds_backend_close(b);
  free(bad);
  free(good);
  plugin_folder_remove(&f);
}

int main(void) {
  unsetenv("DS_BACKEND");
  test_verdicts();
  test_more_time();
  test_allowed();
  test_children_of_others();
  test_no_fork();
  test_atexit();
  test_descriptors();
  test_busy_host();
  test_replaced();
  test_mended();
  return TEST_RESULT();
}
