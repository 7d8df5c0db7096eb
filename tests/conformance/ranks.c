/* ranks.c - starts the ranks of section comm and merges what they say into one line a check.
 *
 * Each world runs all checks in one set of processes; where a check ends them early (a crash, a
 * hang), it has failed, and the ranks are started again with the one after it.
 */
#include "group.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LINES_MAX = 512 };

/* A signal that ends this program first ends the ranks and removes their folder. */
static volatile sig_atomic_t ended_by;

static void on_signal(int number) {
  ended_by = number;
}

static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_ENDS = sizeof ends / sizeof *ends };

typedef struct launch {
  const suite *s;
  int size, from;
  char folder[64];
  bool mpi;
  pid_t pid[RANKS_MAX]; /* mpirun alone, or each rank */
  int status[RANKS_MAX];
  int n_pid, ended;
  bool hung;
} launch;

/* What all ranks said of one check. */
typedef struct merged {
  record *lines;
  int count;
  int began; /* the latest unit that any rank began */
  int done;  /* ranks that came to the end */
  char cannot[1600];
} merged;

static void remove_folder(const char *folder) {
  DIR *d = opendir(folder);
  char path[400];
  for (struct dirent *e; d && (e = readdir(d));) {
    snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    unlink(path);
  }
  if (d) closedir(d);
  rmdir(folder);
}

static bool have_mpirun(void) {
  const char *path = getenv("PATH");
  char name[1024];
  while (path && *path) {
    size_t n = strcspn(path, ":");
    snprintf(name, sizeof name, "%.*s/mpirun", (int)n, path);
    if (n > 0 && access(name, X_OK) == 0) return true;
    path += n + (path[n] == ':');
  }
  return false;
}

/* ---------------------------------------------------------------- starting */

static void become_rank(const launch *l, int rank) {
  char program[1024], size[16], seed[32], cases[16], limit[16], number[16];
  const char *argv[32];
  int n = 0;
  ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
  if (length < 0) _exit(127);
  program[length] = '\0';
  snprintf(size, sizeof size, "%d", l->size);
  snprintf(number, sizeof number, "%d", rank);
  snprintf(seed, sizeof seed, "%lld", (long long)l->s->seed);
  snprintf(cases, sizeof cases, "%d", l->s->cases);
  snprintf(limit, sizeof limit, "%d", l->s->limit);
  if (l->mpi) {
    argv[n++] = "mpirun";
    argv[n++] = "-n";
    argv[n++] = size;
    argv[n++] = "--oversubscribe";
    if (geteuid() == 0) argv[n++] = "--allow-run-as-root";
  } else if (l->size > 1) {
    setenv("RANK", number, 1);
    setenv("LOCAL_RANK", number, 1);
    setenv("WORLD_SIZE", size, 1);
  } else {
    unsetenv("RANK");
    unsetenv("WORLD_SIZE");
  }
  const char *rest[] = {program, "conform", l->s->path, "--rank-folder", l->folder, "--ranks",
                        size,    "--seed",  seed,       "--cases",       cases,     "--limit",
                        limit};
  for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) argv[n++] = rest[i];
  if (l->s->op) argv[n++] = "--op", argv[n++] = l->s->op;
  if (l->s->options) argv[n++] = "--options", argv[n++] = l->s->options;
  argv[n] = NULL;
  execvp(argv[0], (char *const *)(uintptr_t)argv);
  _exit(127);
}

static bool start(launch *l) {
  char path[128];
  const char *tmp = getenv("TMPDIR");
  snprintf(l->folder, sizeof l->folder, "%.40s/ds-conform-XXXXXX",
           tmp && *tmp == '/' ? tmp : "/tmp");
  if (!mkdtemp(l->folder)) return false;
  snprintf(path, sizeof path, "%s/from", l->folder);
  FILE *f = fopen(path, "we");
  if (!f) return false;
  fprintf(f, "%d\n", l->from);
  fclose(f);
  snprintf(path, sizeof path, "%s/log", l->folder);
  l->n_pid = l->mpi ? 1 : l->size;
  fflush(NULL);
  for (int i = 0; i < l->n_pid; i++) {
    l->pid[i] = fork();
    if (l->pid[i] < 0) return false;
    if (l->pid[i] > 0) continue;
    for (int n = 0; n < N_ENDS; n++) signal(ends[n], SIG_DFL);
    int log = open(path, O_CREAT | O_WRONLY | O_APPEND, 0600), none = open("/dev/null", O_RDONLY);
    dup2(none, 0);
    dup2(log, 1);
    dup2(log, 2);
    become_rank(l, i);
  }
  return true;
}

/* ---------------------------------------------------------------- waiting */

static off_t recorded(const launch *l) {
  off_t all = 0;
  for (int i = 0; i < l->size; i++) {
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/rank-%d", l->folder, i);
    if (stat(path, &st) == 0) all += st.st_size;
  }
  return all;
}

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Collects those that have ended. True: one of them badly. */
static bool reap(launch *l) {
  bool bad = false;
  for (int i = 0; i < l->n_pid; i++) {
    if (l->pid[i] <= 0 || waitpid(l->pid[i], &l->status[i], WNOHANG) != l->pid[i]) continue;
    l->pid[i] = 0;
    l->ended++;
    if (!WIFEXITED(l->status[i]) || WEXITSTATUS(l->status[i]) != 0) bad = true;
  }
  return bad;
}

static void stop(launch *l) {
  for (int round = 0; round < 300 && l->ended < l->n_pid; round++) {
    for (int i = 0; i < l->n_pid; i++)
      if (l->pid[i] > 0) kill(l->pid[i], l->mpi && round < 200 ? SIGTERM : SIGKILL);
    usleep(20000);
    (void)reap(l);
  }
}

/* A limit for each check: as long as records come, it goes on. */
static void await(launch *l) {
  off_t seen = -1;
  int64_t end = 0;
  while (l->ended < l->n_pid) {
    off_t size = recorded(l);
    if (size != seen) end = now_ms() + 1000 * (int64_t)l->s->limit;
    seen = size;
    if (reap(l)) { /* the others would wait for it; give them time to notice */
      int64_t grace = now_ms() + 500;
      while (l->ended < l->n_pid && now_ms() < grace) {
        usleep(10000);
        (void)reap(l);
      }
      break;
    }
    l->hung = now_ms() > end;
    if (l->hung || ended_by) break;
    usleep(5000);
  }
  stop(l);
}

/* ---------------------------------------------------------------- merging */

static int badness(const record *r) {
  return r->outcome == OUTCOME_FAIL ? 2 : r->outcome == OUTCOME_UNSUPPORTED ? 1 : 0;
}

static void merge_line(merged *m, const record *r, int seat, int size) {
  record *at = NULL;
  for (int i = 0; i < m->count && !at; i++)
    if (strcmp(m->lines[i].name, r->name) == 0 && strcmp(m->lines[i].dtype, r->dtype) == 0)
      at = &m->lines[i];
  if (!at && m->count == LINES_MAX) return;
  bool fresh = !at;
  if (fresh) at = &m->lines[m->count++];
  bool earlier = !fresh && badness(r) == badness(at) && r->when < at->when;
  if (fresh || badness(r) > badness(at) || earlier) {
    record old = *at;
    *at = *r;
    if (r->message[0] && size > 1 && r->outcome == OUTCOME_FAIL)
      snprintf(at->message, sizeof at->message, "process %d: %.1500s", seat, r->message);
    if (!fresh) at->max_err = fmax(at->max_err, old.max_err);
  } else {
    at->max_err = fmax(at->max_err, r->max_err);
  }
}

static void gather(const launch *l, merged *m) {
  m->began = -1;
  for (int seat = 0; seat < l->size; seat++) {
    char path[128];
    record r;
    snprintf(path, sizeof path, "%s/rank-%d", l->folder, seat);
    int f = open(path, O_RDONLY | O_CLOEXEC);
    while (f >= 0 && record_read(f, &r)) {
      if (r.kind == RECORD_LINE) merge_line(m, &r, seat, l->size);
      if (r.kind == RECORD_BEGIN && r.cases > m->began) m->began = r.cases;
      if (r.kind == RECORD_CANNOT) snprintf(m->cannot, sizeof m->cannot, "%s", r.message);
      if (r.kind == RECORD_DONE) m->done++;
    }
    if (f >= 0) close(f);
  }
}

/* What each rank was at, and how the processes ended. */
static void explain(const launch *l, char *text, size_t room) {
  size_t used = (size_t)snprintf(text, room, "%s", l->hung ? "hangs" : "ended early");
  for (int i = 0; i < l->n_pid && used < room; i++) {
    if (!l->hung && WIFSIGNALED(l->status[i]) && WTERMSIG(l->status[i]) != SIGKILL)
      used += (size_t)snprintf(text + used, room - used, "; process %d by signal %d (%s)", i,
                               WTERMSIG(l->status[i]), strsignal(WTERMSIG(l->status[i])));
    else if (!l->hung && WIFEXITED(l->status[i]) && WEXITSTATUS(l->status[i]) != 0)
      used += (size_t)snprintf(text + used, room - used, "; %s with code %d",
                               l->mpi ? "mpirun" : "a process", WEXITSTATUS(l->status[i]));
  }
  for (int i = 0; i < l->size && used < room; i++) {
    char path[128], doing[200] = "";
    snprintf(path, sizeof path, "%s/doing-%d", l->folder, i);
    int f = open(path, O_RDONLY | O_CLOEXEC);
    if (f >= 0 && read(f, doing, sizeof doing - 1) > 0)
      used += (size_t)snprintf(text + used, room - used, "; process %d was at: %s", i, doing);
    if (f >= 0) close(f);
  }
  char log[400] = "", path[128];
  snprintf(path, sizeof path, "%s/log", l->folder);
  int f = open(path, O_RDONLY | O_CLOEXEC);
  if (f >= 0 && read(f, log, sizeof log - 1) > 0 && used < room)
    snprintf(text + used, room - used, "; it printed: %s", log);
  if (f >= 0) close(f);
  for (char *p = text; *p; p++)
    if ((unsigned char)*p < ' ') *p = ' ';
}

static void tell(const launch *l, record *r, on_record_fn *on_record, void *ctx) {
  char name[sizeof r->name];
  snprintf(name, sizeof name, "%.40s/%d", r->name, l->size);
  snprintf(r->name, sizeof r->name, "%s", name);
  on_record(ctx, r);
}

static void tell_one(const launch *l, const char *name, outcome how, const char *message,
                     on_record_fn *on_record, void *ctx) {
  record r = {.kind = RECORD_LINE, .outcome = (int32_t)how, .cases = 1};
  r.failed = how == OUTCOME_FAIL;
  r.unsupported = how == OUTCOME_UNSUPPORTED;
  record_name(&r, "comm", name, how == OUTCOME_FAIL ? "process" : "");
  snprintf(r.message, sizeof r.message, "%s", message);
  tell(l, &r, on_record, ctx);
}

/* One set of processes; where to go on, or -1. */
static int run_launch(launch *l, on_record_fn *on_record, void *ctx) {
  static record lines[LINES_MAX];
  char text[1600];
  merged m = {.lines = lines};
  if (start(l)) await(l);
  gather(l, &m);
  explain(l, text, sizeof text);
  bool complete = m.done == l->size && !l->hung;
  const char *at = m.began >= 0 ? comm_units[m.began].name : "start";
  remove_folder(l->folder);
  if (ended_by) return -1;
  for (int i = 0; i < m.count; i++) tell(l, &lines[i], on_record, ctx);
  if (m.cannot[0] && m.count == 0) {
    bool gap = strstr(m.cannot, "the comm table has no ") != NULL;
    tell_one(l, "world", gap ? OUTCOME_FAIL : OUTCOME_UNSUPPORTED, m.cannot, on_record, ctx);
    return -1;
  }
  if (complete) return -1;
  tell_one(l, at, OUTCOME_FAIL, text, on_record, ctx);
  return m.began >= 0 && comm_units[m.began + 1].name ? m.began + 1 : -1;
}

void ranks_run(const suite *s, on_record_fn *on_record, void *ctx) {
  const char *slash = s->op ? strchr(s->op, '/') : NULL;
  struct sigaction own = {.sa_handler = on_signal}, before[N_ENDS];
  for (int i = 0; i < N_ENDS; i++) sigaction(ends[i], &own, &before[i]);
  for (const char *p = s->ranks; *p;) {
    int size = (int)strtol(p, (char **)(uintptr_t)&p, 10), from = 0;
    p += *p == ',';
    if (slash && atoi(slash + 1) != size) continue;
    while (from >= 0 && !ended_by) {
      launch l = {.s = s, .size = size, .from = from, .mpi = size > 1 && have_mpirun()};
      from = run_launch(&l, on_record, ctx);
    }
  }
  for (int i = 0; i < N_ENDS; i++) sigaction(ends[i], &before[i], NULL);
  if (ended_by) raise(ended_by);
}
