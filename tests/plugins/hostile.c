/* hostile.c - plugins that do harm while they are loaded or asked. The build names each by AT
 * (where) and DO (what), and by NAME. */
#define CONSTRUCTOR 1
#define QUERY       2
#define ANSWER      3

#define SEGV      1
#define ILL       2
#define ABORT     3
#define HANG      4
#define EXIT      5
#define EXIT_NOW  6 /* _exit */
#define PRINT     7
#define COMPLAIN  8 /* to stderr */
#define TERMINATE 9 /* raises a signal on itself */
#define STOP      10
#define OVERFLOW  11 /* of the stack */
#define SIGNALS   12 /* other handlers, other mask */
#define THREAD    13
#define CLOSE     14 /* every descriptor there is */
#define ROUNDING  15
#define QUICK     16 /* quick_exit */
#define BUFFERED  17 /* prints into a buffer of its own that only fflush empties */
#define DAEMON    18 /* forks, and the parent exits: it goes on as another process */
#define CHILDREN  19 /* forks children that exit and crash: their own affair */
#define ORPHAN    20 /* forks a child that stays */
/* answers */
#define UNMAPPED   30
#define MISALIGNED 31
#define HUGE_TABLE 32
#define NAME_LOST  33
#define ENDLESS    34
#define NO_CODE    35
#define TABLE_LOST 36

#define DEVICES          1
#define NO_DEVICE_REASON NULL
#include "device.h"

#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

DS_PLUGIN_NOTE(NAME, "1.0", 10, "nothing");

static volatile uintptr_t nowhere = 0x10; /* the compiler must not see it coming */
#define NOWHERE ((void *)nowhere)

static int sink;

static int deeper(volatile char *above) {
  volatile char frame[4096];
  frame[0] = *above;
  return deeper(frame) + frame[0];
}

static void *wait_for_ever(void *arg) {
  for (;;) pause();
  return arg;
}

static void ignore(int signal_number) {
  (void)signal_number;
}

static void change_signals(void) {
  sigset_t all;
  signal(SIGINT, SIG_IGN);
  signal(SIGUSR1, ignore);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, NULL);
}

static void print_buffered(void) {
  static char buffer[4096];
  setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
  printf("buffered words");
}

static void have_children(void) {
  for (int i = 0; i < 2; i++) {
    pid_t child = fork();
    if (child == 0 && i == 0) exit(7);
    if (child == 0) abort();
    while (child > 0 && waitpid(child, NULL, 0) != child) continue;
  }
}

static void attack(int what) {
  pthread_t thread;
  volatile char here = 0;
  switch (what) {
    case SEGV: *(volatile int *)NOWHERE = 1; break;
    case ILL: __builtin_trap();
    case ABORT: abort();
    case HANG: wait_for_ever(NULL); break;
    case EXIT: exit(3);
    case EXIT_NOW: _exit(4);
    case QUICK: quick_exit(5);
    case PRINT: printf("hello from a plugin\n"); break;
    case BUFFERED: print_buffered(); break;
    case COMPLAIN: fprintf(stderr, "vendor library: no licence\n"); break;
    case TERMINATE: raise(SIGTERM); break;
    case STOP: raise(SIGSTOP); break;
    case OVERFLOW: sink = deeper(&here); break;
    case SIGNALS: change_signals(); break;
    case THREAD: sink = pthread_create(&thread, NULL, wait_for_ever, NULL); break;
    case CLOSE:
      for (int fd = 0; fd < 1024; fd++) close(fd);
      break;
    case DAEMON:
      if (fork() != 0) _exit(0);
      break;
    case CHILDREN: have_children(); break;
    case ORPHAN:
      if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* not longer than the test */
        wait_for_ever(NULL);
      }
      break;
    case ROUNDING: fesetround(FE_DOWNWARD); break;
    default: break;
  }
}

__attribute__((constructor)) static void at_load(void) {
  if (AT == CONSTRUCTOR) attack(DO);
}

/* A page of letters with nothing mapped behind it. */
static const char *endless(void) {
  char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || munmap(p + 4096, 4096) != 0) return NULL;
  return memset(p, 'v', 4096);
}

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static ds_device_table device = TEST_DEVICE_TABLE(sizeof(ds_device_table), device_copy);
  static ds_plugin plugin = {
      .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = NAME,
      .version = "1.0",
      .description = "hostile",
      .device = &device,
  };
  (void)host;
  (void)host_abi;
  (void)err;
  if (AT == QUERY) attack(DO);
  if (AT != ANSWER) return &plugin;
  switch (DO) {
    case UNMAPPED: return NOWHERE;
    case MISALIGNED: return (const ds_plugin *)(const void *)((const char *)&plugin + 1);
    case HUGE_TABLE: device.base.size = 0xfffffff0; break;
    case NAME_LOST: plugin.name = NOWHERE; break;
    case ENDLESS: plugin.version = endless(); break;
    case TABLE_LOST: plugin.ops = NOWHERE; break;
    case NO_CODE: memset(&device.info, 0x11, sizeof device.info); break;
    default: break;
  }
  return &plugin;
}
