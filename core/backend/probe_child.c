/* Everything here runs in the forked child, whose memory is its own. */
#include "backend/probe_child.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/status.h"

static const int deadly[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP};

/* For handlers, which get no argument. Set in the child only. The plugin may fork: what becomes of
 * its children is no news of it. */
static ds_probe_report *child_report;
static pid_t child_pid;

static void *program_counter(const void *context) {
#if defined(__x86_64__)
  return (void *)((const ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
  return (void *)((const ucontext_t *)context)->uc_mcontext.pc;
#else
  (void)context;
  return NULL;
#endif
}

/* Not async-signal-safe, but the child is dying anyway: at worst it dies of this, with the signal
 * already told. */
static void on_deadly(int signal_number, siginfo_t *info, void *context) {
  Dl_info at;
  const char *pc = program_counter(context);
  (void)info;
  if (getpid() != child_pid) goto die;
  child_report->signal = signal_number;
  child_report->linker = _r_debug.r_state != RT_CONSISTENT;
  if (pc && dladdr(pc, &at) && at.dli_fname) {
    const char *slash = strrchr(at.dli_fname, '/');
    if (at.dli_fbase == (void *)(uintptr_t)_r_debug.r_ldbase) child_report->linker = 1;
    snprintf(child_report->where, sizeof child_report->where, "%.100s+0x%lx",
             slash ? slash + 1 : at.dli_fname, (unsigned long)(pc - (const char *)at.dli_fbase));
  }
die:
  raise(signal_number); /* the default action: SA_RESETHAND */
}

/* The first to run of all atexit functions that there are now, and so the last. */
static void on_exit_called(int status, void *arg) {
  ds_probe_report *report = arg;
  report->exit_status = status;
  if (getpid() == child_pid) report->exited = 1;
  _exit(status & 255);
}

static void on_quick_exit_called(void) {
  _exit(1);
}

static void reset_signals(void) {
  struct sigaction action = {.sa_handler = SIG_DFL};
  sigset_t none;
  for (int i = 1; i < NSIG; i++) sigaction(i, &action, NULL);
  action.sa_sigaction = on_deadly;
  action.sa_flags = (int)(SA_SIGINFO | SA_ONSTACK | SA_RESETHAND | SA_NODEFER);
  for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) sigaction(deadly[i], &action, NULL);
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, NULL);
}

static bool is_deadly(int signal_number) {
  for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
    if (deadly[i] == signal_number) return true;
  return false;
}

static uint64_t changed_signals(void) {
  uint64_t changed = 0;
  for (int i = 1; i < NSIG; i++) {
    struct sigaction now;
    if (sigaction(i, NULL, &now) != 0) continue; /* the C library's own */
    bool same = is_deadly(i) ? now.sa_sigaction == on_deadly : now.sa_handler == SIG_DFL;
    if (!same) changed |= (uint64_t)1 << (i - 1);
  }
  return changed;
}

/* What is left in the host's buffers is the host's to write. */
static void forget_output(FILE *f) {
  if (!f) return;
  __fpurge(f);
  setvbuf(f, NULL, _IONBF, 0);
}

/* 0, 1, 2, and one more that tells whether others are closed. Returns that one. */
static int set_descriptors(const ds_probe_job *job) {
  int null = open("/dev/null", O_RDWR);
  if (null < 0) _exit(1);
  if (dup2(null, 0) < 0 || dup2(job->out, 1) < 0 || dup2(job->err, 2) < 0) _exit(1);
  close_range(3, ~0u, 0); /* an old kernel can't; then they stay open */
  forget_output(stdout);
  forget_output(stderr);
  return fcntl(0, F_DUPFD, 3);
}

static bool is_same_file(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Host services in the child. */
static void host_log(void *ctx, ds_log_level level, const char *message) {
  volatile size_t length = message ? strnlen(message, DS_ERROR_MESSAGE_MAX) : 0; /* is it there? */
  (void)ctx;
  (void)level;
  (void)length;
}

static void *host_alloc(void *ctx, size_t bytes) {
  (void)ctx;
  void *p = NULL;
  return posix_memalign(&p, 64, bytes ? bytes : 1) == 0 ? p : NULL;
}

static void host_free(void *ctx, void *p) {
  (void)ctx;
  free(p);
}

static int stop(struct dl_phdr_info *info, size_t size, void *arg) {
  (void)info;
  (void)size;
  (void)arg;
  return 1;
}

/* Waits on the locks of the linker: one that another thread of the host held when it forked is held
 * for ever here. (glibc resets those of malloc and stdio, not these.) Past this, no thread was
 * inside the linker, and its lists are whole. */
static void pass_locks(void) {
  Dl_info info;
  dladdr((const void *)deadly, &info);
  dl_iterate_phdr(stop, NULL);
}

/* The plugin may have forked: whoever isn't the child has nothing to tell. */
static void enter(ds_probe_step step) {
  if (getpid() != child_pid) _exit(0);
  child_report->step = step;
}

static ds_status load(const ds_probe_job *job, ds_error *err) {
  static const ds_version_range abi = {DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, 0};
  static const ds_host host = {
      {sizeof host, DS_ABI_MAJOR, DS_ABI_MINOR}, NULL, host_log, host_alloc, host_free};
  const ds_candidate *c = job->candidate;
  ds_probe_report *report = job->report;
  ds_plugin_query_fn *query;
  ds_error e = {DS_OK, ""};
  DS_TRY(ds_identity_check(&c->id, c->path, err));
  enter(DS_PROBE_LOAD);
  void *handle = dlopen(c->path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char *said = dlerror();
    snprintf(report->linker_said, sizeof report->linker_said, "%s", said ? said : "no reason");
    return ds_fail(err, DS_ERR_FORMAT, "can't be loaded: %s", report->linker_said);
  }
  DS_TRY(ds_identity_check(&c->id, c->path, err));
  void *symbol = ds_probe_find_query(handle, err);
  if (!symbol) return DS_ERR_FORMAT;
  memcpy(&query, &symbol, sizeof query);
  enter(DS_PROBE_QUERY);
  const ds_plugin *answer = query(&host, abi, &e);
  enter(DS_PROBE_CHECK);
  return answer ? job->check(job->ctx, answer, err) : DS_OK;
}

void ds_probe_child(const ds_probe_job *job) {
  const struct rlimit no_core = {0, 0};
  struct stat before[4], after;
  ds_probe_report *report = job->report;
  const stack_t alternative = {.ss_sp = report->stack, .ss_size = sizeof report->stack};
  child_report = report;
  child_pid = getpid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != job->parent) _exit(1);
  setpgid(0, 0);
  setrlimit(RLIMIT_CORE, &no_core);
  if (sigaltstack(&alternative, NULL) != 0) _exit(1);
  reset_signals();
  on_exit(on_exit_called, report);
  at_quick_exit(on_quick_exit_called);
  int descriptors[] = {0, 1, 2, set_descriptors(job)};
  for (int i = 0; i < 4; i++)
    if (fstat(descriptors[i], &before[i]) != 0) _exit(1);

  pass_locks();
  report->error.status = load(job, &report->error);

  for (int i = 0; i < 4; i++)
    if (fstat(descriptors[i], &after) != 0 || !is_same_file(&before[i], &after))
      report->descriptors = 1;
  report->signals = changed_signals();
  fflush(stdout); /* it may have set a buffer */
  fflush(stderr);
  enter(DS_PROBE_DONE);
  _exit(0);
}
