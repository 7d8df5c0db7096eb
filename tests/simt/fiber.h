/* fiber.h - stacks to run threads of a block on, and changing from one to another. One system thread uses
 * them at a time. */
#ifndef DS_SIMT_FIBER_H
#define DS_SIMT_FIBER_H

#include <stddef.h>

struct fiber;

/* Makes `count` stacks, once; false without memory. Whoever goes to a free one runs body() there, or goes on with it
 * where it released itself and went away. body never returns. */
bool fiber_start(int count, void (*body)());
fiber *fiber_take(); /* a free one; there must be one */
void fiber_release(fiber *f);
fiber *fiber_running();
void fiber_go(fiber *to);

/* From a system thread's own stack: goes to a free one, until that or another leaves. */
void fiber_enter();
void fiber_leave(); /* everything is done, all others are free: to be called by a fiber that released itself */
[[noreturn]] void fiber_abandon(); /* what fibers were at is forgotten: all are free */

/* Whether p is on one of the stacks, or under one, where a stack too small ends. */
bool fiber_is_stack(const void *p);
bool fiber_is_overflow(const void *p);

#endif
