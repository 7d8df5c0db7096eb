/* bench_turns.h - two programs of several ranks that measure in turns, on the same processors.
 *
 * Each rank of one program has its like in the other; between their rounds they hand each other the
 * turn through two named pipes in one folder, DIR/first.RANK and DIR/second.RANK (bench/compare-comm
 * makes them). Who waits for its turn sleeps.
 */
#ifndef DS_CLI_BENCH_TURNS_H
#define DS_CLI_BENCH_TURNS_H

#include <stdbool.h>

typedef struct bench_turns {
  int mine, theirs; /* file descriptors; 0: nobody to take turns with */
} bench_turns;

/* dir: NULL = no turns. first: of the two programs, who begins. False with errno set. */
bool bench_turns_open(bench_turns *t, const char *dir, bool first, int rank);
/* Waits for this program's turn. False after a minute without it, or an error (errno is 0 or says). */
bool bench_turns_take(bench_turns *t);
bool bench_turns_give(bench_turns *t);
void bench_turns_close(bench_turns *t);

#endif
