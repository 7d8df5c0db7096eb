/* guard.h - what loading a plugin must not change in the host: the handlers of signals, which
 * signals the calling thread blocks, and how it rounds (a library linked with -ffast-math makes
 * denormals zero for whoever loads it). */
#ifndef DS_BACKEND_GUARD_H
#define DS_BACKEND_GUARD_H

#include <fenv.h>
#include <signal.h>
#include <stdint.h>

typedef struct ds_guard {
  uint64_t signals;
  struct sigaction handlers[NSIG];
  sigset_t blocked;
  fenv_t rounding;
} ds_guard;

/* signals: bit i-1 guards the handler of signal i. Name only those that are known to be in danger
 * (the probe knows): another thread's change to them meanwhile is undone too. */
void ds_guard_begin(ds_guard *g, uint64_t signals);
/* Puts everything back, on the same thread. Returns a signal whose handler had changed, or 0. */
int ds_guard_end(const ds_guard *g);

#endif
