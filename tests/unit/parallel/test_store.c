/* The key-value store: several ranks in one process, each with its own end of it; strangers at the
 * port; ranks that are late or never come. */
#include "parallel/store.h"

#include "parallel/store_places.h"
#include "test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RANKS = 3, LIMIT_MS = 60000 };

static char job[64];
static int port;

static ds_store *open_rank(int rank, int size, const char *host, const char *word,
                           int64_t timeout_ms) {
  ds_store_args a = {rank, size, host, port, word, timeout_ms, .spread = false};
  ds_store *s = NULL;
  ds_error err;
  CHECK_OK(ds_store_create(&a, &s, &err), err);
  return s;
}

static ds_status set(ds_store *s, const char *key, const char *value, ds_error *err) {
  const ds_kv_store *kv = ds_store_kv(s);
  return kv->set(kv->ctx, key, value, strlen(value), err);
}

static ds_status get(ds_store *s, const char *key, char *value, size_t room, int64_t ms,
                     ds_error *err) {
  const ds_kv_store *kv = ds_store_kv(s);
  memset(value, 0, room);
  room -= 1;
  return kv->get(kv->ctx, key, value, &room, ms, err);
}

/* A port that is free now. */
static int free_port(void) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t n = sizeof a;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(bind(fd, (struct sockaddr *)&a, sizeof a) == 0);
  CHECK(getsockname(fd, (struct sockaddr *)&a, &n) == 0);
  close(fd);
  return ntohs(a.sin_port);
}

/* ---------------------------------------------------------------- ranks that meet */

typedef struct member {
  int rank;
  const char *host;
  int errors;
} member;

/* Everybody sets a value, gets all, and goes. */
static void *meet(void *arg) {
  member *m = arg;
  char key[32], value[64], want[64];
  ds_error err;
  ds_store_args a = {m->rank, RANKS, m->host, port, job, LIMIT_MS, .spread = false};
  ds_store *s = NULL;
  if (ds_store_create(&a, &s, &err) != DS_OK) {
    m->errors++;
    return NULL;
  }
  for (int round = 0; round < 20; round++) {
    snprintf(key, sizeof key, "r%d/%d", round, m->rank);
    snprintf(value, sizeof value, "value %d of %d", round, m->rank);
    m->errors += set(s, key, value, &err) != DS_OK;
    for (int i = 0; i < RANKS; i++) {
      snprintf(key, sizeof key, "r%d/%d", round, i);
      snprintf(want, sizeof want, "value %d of %d", round, i);
      bool ok = get(s, key, value, sizeof value, LIMIT_MS, &err) == DS_OK;
      m->errors += !ok || strcmp(value, want) != 0;
      if (!ok) fprintf(stderr, "rank %d: %s\n", m->rank, err.message);
    }
  }
  ds_store_destroy(s);
  return NULL;
}

/* Three times in a row, as engines do: a rank that is done early must not find the store before. */
static void *meet_thrice(void *arg) {
  for (int i = 0; i < 3; i++) meet(arg);
  return NULL;
}

static void test_meet(const char *host) {
  pthread_t threads[RANKS];
  member m[RANKS];
  for (int i = 0; i < RANKS; i++) {
    m[i] = (member){i, host, 0};
    CHECK(pthread_create(&threads[i], NULL, meet_thrice, &m[i]) == 0);
  }
  for (int i = 0; i < RANKS; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < RANKS; i++) CHECK(m[i].errors == 0);
}

/* ---------------------------------------------------------------- what isn't there */

static void test_limits(void) {
  ds_error err;
  char value[16], big[32];
  ds_store *zero = open_rank(0, 1, "127.0.0.1", job, LIMIT_MS);
  const ds_kv_store *kv = ds_store_kv(zero);
  CHECK_FAILS(get(zero, "nothing", value, sizeof value, 50, &err), DS_ERR_TIMEOUT, err,
              "\"nothing\": no rank has set it");
  CHECK_FAILS(get(zero, "nothing", value, sizeof value, 0, &err), DS_ERR_TIMEOUT, err, "nothing");
  CHECK_FAILS(set(zero, "", "x", &err), DS_ERR_INVALID, err, "key");
  CHECK_FAILS(kv->set(kv->ctx, "big", big, DS_STORE_VALUE_MAX + 1, &err), DS_ERR_INVALID, err,
              "the most");
  CHECK_OK(set(zero, "long", "0123456789abcdef0123", &err), err);
  CHECK_FAILS(get(zero, "long", value, sizeof value, 50, &err), DS_ERR_INVALID, err, "20 bytes");
  CHECK_OK(set(zero, "empty", "", &err), err);
  CHECK_OK(get(zero, "empty", value, sizeof value, 50, &err), err);
  CHECK(value[0] == 0);
  CHECK_OK(set(zero, "twice", "old", &err), err);
  CHECK_OK(set(zero, "twice", "new", &err), err);
  CHECK_OK(get(zero, "twice", value, sizeof value, 50, &err), err);
  CHECK(strcmp(value, "new") == 0);
  char *most = calloc(1, DS_STORE_VALUE_MAX);
  char key[16];
  ds_status st = DS_OK;
  for (int i = 0; i < 2 * DS_STORE_TOTAL_MAX / DS_STORE_VALUE_MAX && st == DS_OK; i++) {
    snprintf(key, sizeof key, "%d", i);
    st = kv->set(kv->ctx, key, most, DS_STORE_VALUE_MAX, &err);
  }
  CHECK(st == DS_ERR_MEMORY && strstr(err.message, "full"));
  free(most);
  ds_store_destroy(zero);
}

static void test_missing(void) {
  ds_error err;
  char value[16];
  ds_store *one = open_rank(1, 2, "127.0.0.1", job, 100);
  CHECK_FAILS(set(one, "a", "b", &err), DS_ERR_TIMEOUT, err, "rank 1: no answer from rank 0 at");
  CHECK_FAILS(get(one, "a", value, sizeof value, 100, &err), DS_ERR_TIMEOUT, err, "127.0.0.1:");
  ds_store_destroy(one);
  one = open_rank(1, 2, NULL, job, 100);
  CHECK_FAILS(set(one, "a", "b", &err), DS_ERR_TIMEOUT, err, "this host's socket of the job");
  ds_store_destroy(one);
  one = open_rank(1, 2, "no.such.host.invalid", job, 100);
  CHECK_FAILS(set(one, "a", "b", &err), DS_ERR_NOT_FOUND, err, "MASTER_ADDR");
  ds_store_destroy(one);
  ds_store_destroy(open_rank(0, 2, "127.0.0.1", job, 100)); /* never used: nothing was opened */
  ds_store_destroy(NULL);
}

/* ---------------------------------------------------------------- strangers */

static int dial(void) {
  struct sockaddr_in a = {.sin_family = AF_INET,
                          .sin_port = htons((uint16_t)port),
                          .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
  return fd;
}

static void say(const void *bytes, size_t n) {
  char answer[64];
  int fd = dial();
  CHECK(send(fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n);
  CHECK(recv(fd, answer, sizeof answer, 0) <= 0); /* turned away, and without a word */
  close(fd);
}

static void test_strangers(void) {
  ds_error err;
  char value[16], junk[256];
  ds_store *zero = open_rank(0, 2, "127.0.0.1", job, LIMIT_MS);
  CHECK_OK(set(zero, "a", "b", &err), err);
  memset(junk, 'G', sizeof junk);
  say(junk, sizeof junk);
  ds_store_request q = {.magic = DS_STORE_MAGIC, .version = DS_STORE_VERSION, .call = 77};
  ds_store_request bad = q;
  bad.key_bytes = UINT32_MAX;
  say(&bad, sizeof bad);
  bad = q;
  bad.value_bytes = DS_STORE_VALUE_MAX + 1;
  say(&bad, sizeof bad);
  bad = q;
  bad.version = 2;
  say(&bad, sizeof bad);
  bad = q;
  bad.timeout_ms = -1;
  say(&bad, sizeof bad);
  /* Some say half of it and nothing more, some nothing at all, and some go at once. */
  int idle[20];
  for (int i = 0; i < 20; i++) {
    idle[i] = dial();
    if (i % 3 == 0) CHECK(send(idle[i], &q, sizeof q / 2, MSG_NOSIGNAL) == sizeof q / 2);
    if (i % 3 == 1) close(idle[i]);
  }
  CHECK_OK(get(zero, "a", value, sizeof value, LIMIT_MS, &err), err);
  CHECK(strcmp(value, "b") == 0);
  for (int i = 0; i < 20; i++)
    if (i % 3 != 1) close(idle[i]);
  /* Another job's rank, another world's. */
  ds_store *other = open_rank(1, 2, "127.0.0.1", "another", 1500);
  CHECK_FAILS(set(other, "a", "c", &err), DS_ERR_TIMEOUT, err, "another job's store");
  ds_store_destroy(other);
  other = open_rank(1, 3, "127.0.0.1", job, 1500);
  CHECK_FAILS(set(other, "a", "c", &err), DS_ERR_TIMEOUT, err, "another job's store");
  ds_store_destroy(other);
  other = open_rank(0, 2, "127.0.0.1", "another", 1500);
  CHECK_FAILS(set(other, "a", "c", &err), DS_ERR_IO, err, "can't listen");
  ds_store_destroy(other);
  CHECK_OK(get(zero, "a", value, sizeof value, LIMIT_MS, &err), err);
  CHECK(strcmp(value, "b") == 0);
  ds_store *one = open_rank(1, 2, "127.0.0.1", job, LIMIT_MS);
  CHECK_OK(get(one, "a", value, sizeof value, LIMIT_MS, &err), err);
  ds_store_destroy(one);
  ds_store_destroy(zero);
}

/* FNV-1a, as the ranks' word goes over the wire. */
static uint64_t hash(const char *text) {
  uint64_t h = 0xcbf29ce484222325u;
  for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
  return h;
}

/* Knows everything that rank 1 does but isn't its user. Gives the bytes of an answer. */
static int ask_as_nobody(const char *name, const ds_store_request *q) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  char answer[64];
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  memcpy(a.sun_path + 1, name, strlen(name));
  socklen_t n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
  if (setuid(65534) != 0 || connect(fd, (struct sockaddr *)&a, n) != 0) return 100;
  (void)!send(fd, q, sizeof *q, MSG_NOSIGNAL);
  (void)!send(fd, "a", 1, MSG_NOSIGNAL);
  ssize_t got = recv(fd, answer, sizeof answer, 0);
  return got > 0 ? (int)got : 0;
}

/* Names of the abstract namespace are anybody's: the two sides look who the other is. */
static void test_other_user(void) {
  ds_error err;
  char name[80];
  int status = -1;
  if (geteuid() != 0) return; /* nobody else to be */
  const ds_store_request q = {.magic = DS_STORE_MAGIC,
                              .version = DS_STORE_VERSION,
                              .call = DS_STORE_GET,
                              .rank = 1,
                              .size = 2,
                              .job = hash(job),
                              .timeout_ms = LIMIT_MS,
                              .key_bytes = 1};
  ds_store *zero = open_rank(0, 2, NULL, job, LIMIT_MS);
  CHECK_OK(set(zero, "a", "b", &err), err);
  snprintf(name, sizeof name, "dscore-%ld-%016llx", (long)geteuid(), (unsigned long long)q.job);
  pid_t child = fork();
  if (child == 0) _exit(ask_as_nobody(name, &q));
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  ds_store *one = open_rank(1, 2, NULL, job, LIMIT_MS);
  CHECK_OK(get(one, "a", name, sizeof name, LIMIT_MS, &err), err);
  ds_store_destroy(one);
  ds_store_destroy(zero);
}

/* Rank 0's host knows itself by a loopback address, as Debian has it: the others come from elsewhere. */
static void test_spread(void) {
  ds_error err;
  char value[16];
  ds_store_args a = {0, 2, "127.0.1.1", port, job, LIMIT_MS, .spread = true};
  ds_store *zero = NULL;
  CHECK_OK(ds_store_create(&a, &zero, &err), err);
  CHECK_OK(set(zero, "a", "b", &err), err);
  ds_store *one = open_rank(1, 2, "127.0.0.3", job, LIMIT_MS);
  CHECK_OK(get(one, "a", value, sizeof value, LIMIT_MS, &err), err);
  ds_store_destroy(one);
  ds_store_destroy(zero);
}

/* Listens at a port and accepts nobody: whoever connects waits. */
static int swallow_at(int at) {
  struct sockaddr_in a = {.sin_family = AF_INET,
                          .sin_port = htons((uint16_t)at),
                          .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int yes = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0);
  CHECK(bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 8) == 0);
  return fd;
}

/* A word whose first n ports are free now. */
static void find_word(char *word, size_t size, int n) {
  for (int try = 0;; try++) {
    snprintf(word, size, "test_store any %d %d", (int)getpid(), try);
    int good = 0;
    for (; good < n; good++) {
      struct sockaddr_in a = {.sin_family = AF_INET,
                              .sin_port = htons((uint16_t)ds_store_job_port(hash(word), good)),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
      int fd = socket(AF_INET, SOCK_STREAM, 0);
      bool is_free = bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
      close(fd);
      if (!is_free) break;
    }
    if (good == n) return;
  }
}

/* Port 0: of the job's ports the first holds a stranger who says nothing, the second another job's
 * store; the ranks meet at the third. */
static void test_any_port(void) {
  ds_error err;
  char value[16], word[64];
  int before = port;
  find_word(word, sizeof word, 3);
  int silent = swallow_at(ds_store_job_port(hash(word), 0));
  port = ds_store_job_port(hash(word), 1);
  ds_store *other = open_rank(0, 2, "127.0.0.1", "another", LIMIT_MS);
  CHECK_OK(set(other, "a", "not this", &err), err);
  port = 0;
  ds_store *one = open_rank(1, 2, "127.0.0.1", word, 100);
  CHECK_FAILS(get(one, "a", value, sizeof value, 100, &err), DS_ERR_TIMEOUT, err,
              "other ports of this job's");
  ds_store_destroy(one);
  ds_store *zero = open_rank(0, 2, "127.0.0.1", word, LIMIT_MS);
  CHECK_OK(set(zero, "a", "b", &err), err);
  one = open_rank(1, 2, "127.0.0.1", word, LIMIT_MS);
  CHECK_OK(get(one, "a", value, sizeof value, LIMIT_MS, &err), err);
  CHECK(strcmp(value, "b") == 0);
  CHECK_OK(set(one, "c", "d", &err), err);
  CHECK_OK(get(zero, "c", value, sizeof value, LIMIT_MS, &err), err);
  ds_store_destroy(one);
  ds_store_destroy(zero);
  close(silent);
  port = ds_store_job_port(hash(word), 1);
  one = open_rank(1, 2, "127.0.0.1", "another", LIMIT_MS); /* says bye: its rank 0 needn't linger */
  CHECK_OK(get(one, "a", value, sizeof value, LIMIT_MS, &err), err);
  ds_store_destroy(one);
  ds_store_destroy(other);
  port = before;
}

static double cpu_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* No descriptor for whoever knocks: the server sleeps meanwhile, and lets them in once there is. */
static void test_no_descriptors(void) {
  ds_error err;
  struct rlimit limit, tight;
  ds_store *zero = open_rank(0, 1, "127.0.0.1", job, LIMIT_MS);
  CHECK_OK(set(zero, "a", "b", &err), err);
  struct sockaddr_in a = {.sin_family = AF_INET,
                          .sin_port = htons((uint16_t)port),
                          .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM, 0), next = dup(fd);
  close(next);
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  tight = limit;
  tight.rlim_cur = (rlim_t)next;
  CHECK(setrlimit(RLIMIT_NOFILE, &tight) == 0);
  CHECK(connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
  double before = cpu_seconds();
  usleep(500000);
  CHECK(cpu_seconds() - before < 0.1);
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  const ds_store_request q = {.magic = DS_STORE_MAGIC,
                              .version = DS_STORE_VERSION,
                              .call = DS_STORE_GET,
                              .size = 1,
                              .job = hash(job),
                              .timeout_ms = LIMIT_MS,
                              .key_bytes = 1};
  ds_store_reply r = {0};
  CHECK(send(fd, &q, sizeof q, MSG_NOSIGNAL) == sizeof q && send(fd, "a", 1, MSG_NOSIGNAL) == 1);
  CHECK(recv(fd, &r, sizeof r, MSG_WAITALL) == sizeof r && r.status == DS_OK && r.bytes == 1);
  close(fd);
  ds_store_destroy(zero);
}

/* Something else at the port: it answers nonsense. */
static void *nonsense(void *arg) {
  int fd = accept(*(int *)arg, NULL, NULL);
  char text[] = "HTTP/1.1 400 Bad Request\r\n\r\n", rest[64];
  (void)!send(fd, text, sizeof text, MSG_NOSIGNAL);
  while (recv(fd, rest, sizeof rest, 0) > 0) continue;
  close(fd);
  return NULL;
}

static void test_foreign_server(void) {
  ds_error err;
  pthread_t thread;
  struct sockaddr_in a = {.sin_family = AF_INET,
                          .sin_port = htons((uint16_t)port),
                          .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int yes = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0);
  CHECK(bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 8) == 0);
  CHECK(pthread_create(&thread, NULL, nonsense, &fd) == 0);
  ds_store *one = open_rank(1, 2, "127.0.0.1", job, LIMIT_MS);
  CHECK_FAILS(set(one, "a", "b", &err), DS_ERR_FORMAT, err, "not rank 0 of this job");
  pthread_join(thread, NULL);
  close(fd);
  ds_store_destroy(one);
}

/* A value that is set while another waits for it. */
static void *set_later(void *store) {
  ds_error err;
  usleep(30000);
  ds_status status = set(store, "late", "here", &err); /* the other thread sees what came of it */
  (void)status;
  return NULL;
}

static void test_wait(void) {
  ds_error err;
  char value[16];
  pthread_t thread;
  ds_store *zero = open_rank(0, 1, NULL, job, LIMIT_MS);
  CHECK(pthread_create(&thread, NULL, set_later, zero) == 0);
  CHECK_OK(get(zero, "late", value, sizeof value, LIMIT_MS, &err), err);
  CHECK(strcmp(value, "here") == 0);
  pthread_join(thread, NULL);
  ds_store_destroy(zero);
}

int main(void) {
  snprintf(job, sizeof job, "test_store %d", (int)getpid());
  port = free_port();
  test_meet(NULL);
  test_meet("127.0.0.1");
  test_limits();
  test_missing();
  test_strangers();
  test_other_user();
  test_spread();
  test_any_port();
  test_no_descriptors();
  test_foreign_server();
  test_wait();
  return TEST_RESULT();
}
