/* fault.cpp - an address that a kernel must not touch ends the launch, as on a GPU, and not the process. Not under
 * AddressSanitizer, which tells more. */
#include "machine.h"

#include "fiber.h"

#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__)

#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

namespace {

const int SIGNALS[] = {SIGSEGV, SIGBUS};
struct sigaction before[2];
stack_t stack_before;
alignas(64) char signal_stack[64 * 1024], landing_stack[64 * 1024];
pthread_t runner;
const void *volatile at;
volatile bool is_write;

/* Where the thread of the block goes on after the signal: on a stack that is surely good. */
[[noreturn]] void land() {
  const void *p = const_cast<const void *>(at);
  char where[200];
  if (fiber_is_overflow(p)) simt_fail("its stack overflows: too many, or too large, variables");
  simt_memory_describe(p, where, sizeof where);
  simt_fail("%s %s", is_write ? "writes" : "reads", where);
}

void handle(int number, siginfo_t *info, void *context) {
  if (!pthread_equal(pthread_self(), runner)) { /* not a kernel's: as if this weren't here */
    sigaction(number, &before[number == SIGBUS], nullptr);
    return;
  }
  ucontext_t *c = static_cast<ucontext_t *>(context);
  at = info->si_addr;
  is_write = c->uc_mcontext.gregs[REG_ERR] & 2;
  c->uc_mcontext.gregs[REG_RSP] =
      reinterpret_cast<greg_t>(landing_stack + sizeof landing_stack - 72);
  c->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(land);
}

} // namespace

simt_faults::simt_faults() {
  runner = pthread_self();
  stack_t own = {};
  own.ss_sp = signal_stack;
  own.ss_size = sizeof signal_stack;
  sigaltstack(&own, &stack_before);
  struct sigaction action = {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int i = 0; i < 2; i++) sigaction(SIGNALS[i], &action, &before[i]);
}

simt_faults::~simt_faults() {
  for (int i = 0; i < 2; i++) sigaction(SIGNALS[i], &before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
}

#else

simt_faults::simt_faults() {}
simt_faults::~simt_faults() {}

#endif
