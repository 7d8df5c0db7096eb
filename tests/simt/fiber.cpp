#include "fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define PORTABLE 0
#else
#define PORTABLE 1
#include <ucontext.h>
#endif

/* Without optimization, and with checks, kernels have large frames. */
static const size_t STACK = 256 * 1024;
static const size_t GUARD = 64 * 1024;

struct fiber {
#if PORTABLE
  ucontext_t context;
#else
  void *sp;
#endif
  bool begun;
  char *stack; /* the lowest address */
  size_t stack_bytes;
  void *fake; /* AddressSanitizer's */
  fiber *next_free;
};

static char *memory;
static fiber *fibers, *free_fibers, *running, *previous;
static fiber root; /* the system thread */
static int n_fibers;
static void (*body_of_all)();

#if !PORTABLE
/* Saves what a function must preserve, and goes on with another stack. */
extern "C" __attribute__((visibility("hidden"))) void simt_switch_stack(void **from, void *to);
asm(".text\n"
    ".p2align 4\n"
    ".globl simt_switch_stack\n"
    ".hidden simt_switch_stack\n"
    ".type simt_switch_stack, @function\n"
    "simt_switch_stack:\n"
    "  push %rbp\n"
    "  push %rbx\n"
    "  push %r12\n"
    "  push %r13\n"
    "  push %r14\n"
    "  push %r15\n"
    "  mov %rsp, (%rdi)\n"
    "  mov %rsi, %rsp\n"
    "  pop %r15\n"
    "  pop %r14\n"
    "  pop %r13\n"
    "  pop %r12\n"
    "  pop %rbx\n"
    "  pop %rbp\n"
    "  pop %rcx\n"
    "  jmp *%rcx\n"
    ".size simt_switch_stack, .-simt_switch_stack\n");
#endif

static void arrived(void *fake) {
#if defined(__SANITIZE_ADDRESS__)
  const void *bottom;
  size_t bytes;
  __sanitizer_finish_switch_fiber(fake, &bottom, &bytes);
  if (previous == &root) {
    root.stack = static_cast<char *>(const_cast<void *>(bottom));
    root.stack_bytes = bytes;
  }
#else
  (void)fake;
#endif
}

static void begin() {
  arrived(nullptr);
  body_of_all();
  abort(); /* it never returns */
}

/* As if simt_switch_stack had been called just before begin(). The tops of the stacks are spread over the sets of
 * the cache, which stacks of one size would share. */
static void prepare(fiber *f) {
  const size_t spread = (size_t)(f - fibers) * 320 % 3840 / 64 * 64;
#if PORTABLE
  getcontext(&f->context);
  f->context.uc_stack.ss_sp = f->stack;
  f->context.uc_stack.ss_size = STACK - spread;
  f->context.uc_link = nullptr;
  makecontext(&f->context, begin, 0);
#else
  void **top = reinterpret_cast<void **>(f->stack + STACK - spread - 56);
  top[0] = nullptr; /* where begin would return to */
  top[-1] = reinterpret_cast<void *>(begin);
  for (int i = 2; i <= 7; i++) top[-i] = nullptr;
  f->sp = top - 7;
#endif
  f->begun = true;
}

bool fiber_start(int count, void (*body)()) {
  if (fibers) return true;
  const size_t each = STACK + GUARD;
  void *p = mmap(nullptr, (size_t)count * each, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return false;
  memory = static_cast<char *>(p);
  fibers = new fiber[(size_t)count]();
  n_fibers = count;
  body_of_all = body;
  for (int i = count - 1; i >= 0; i--) {
    fiber *f = &fibers[i];
    f->stack = memory + (size_t)i * each + GUARD;
    f->stack_bytes = STACK;
    mprotect(f->stack, STACK, PROT_READ | PROT_WRITE);
    fiber_release(f);
  }
  return true;
}

fiber *fiber_take() {
  fiber *f = free_fibers;
  free_fibers = f->next_free;
  if (!f->begun) prepare(f);
  return f;
}

void fiber_release(fiber *f) {
  f->next_free = free_fibers;
  free_fibers = f;
}

fiber *fiber_running() {
  return running;
}

static void change(fiber *from, fiber *to) {
  previous = from;
  running = to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from->fake, to->stack, to->stack_bytes);
#endif
#if PORTABLE
  swapcontext(&from->context, &to->context);
#else
  simt_switch_stack(&from->sp, to->sp);
#endif
  arrived(from->fake);
}

void fiber_go(fiber *to) {
  change(running, to);
}

void fiber_enter() {
  change(&root, fiber_take());
}

void fiber_leave() {
  change(running, &root);
}

void fiber_abandon() {
  free_fibers = nullptr;
  for (int i = n_fibers - 1; i >= 0; i--) {
    fibers[i].begun = false;
    fiber_release(&fibers[i]);
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fibers[i].stack, STACK);
#endif
  }
  change(running, &root);
  abort(); /* nobody comes back here */
}

static bool is_in(const void *p, bool guard) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(memory);
  if (!memory || offset >= (size_t)n_fibers * (STACK + GUARD)) return false;
  return (offset % (STACK + GUARD) < GUARD) == guard;
}

bool fiber_is_stack(const void *p) {
  return is_in(p, false);
}

bool fiber_is_overflow(const void *p) {
  return is_in(p, true);
}
