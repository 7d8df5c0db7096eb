#include "backend/guard.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

static bool is_guarded(const ds_guard *g, int signal_number) {
  return g->signals >> (signal_number - 1) & 1;
}

void ds_guard_begin(ds_guard *g, uint64_t signals) {
  memset(g, 0, sizeof *g);
  g->signals = signals;
  for (int i = 1; i < NSIG; i++)
    if (is_guarded(g, i)) sigaction(i, NULL, &g->handlers[i]);
  pthread_sigmask(SIG_SETMASK, NULL, &g->blocked);
  fegetenv(&g->rounding);
}

int ds_guard_end(const ds_guard *g) {
  int changed = 0;
  for (int i = NSIG - 1; i >= 1; i--) {
    struct sigaction now;
    if (!is_guarded(g, i) || sigaction(i, NULL, &now) != 0) continue;
    if (now.sa_handler == g->handlers[i].sa_handler && now.sa_flags == g->handlers[i].sa_flags)
      continue;
    sigaction(i, &g->handlers[i], NULL);
    changed = i;
  }
  pthread_sigmask(SIG_SETMASK, &g->blocked, NULL);
  fesetenv(&g->rounding);
  return changed;
}
