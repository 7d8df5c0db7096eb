#include "progress.h"

#include "cli.h"

#include <math.h>
#include <unistd.h>

void progress_start(progress *p, bool json, int64_t first, int64_t last) {
  *p = (progress){.json = json,
                  .terminal = !json && isatty(STDOUT_FILENO),
                  .first = first,
                  .last = last,
                  .start = cli_now()};
}

/* NaN and infinity are no JSON. */
static void print_number(const char *key, double v) {
  if (isfinite(v))
    printf("\"%s\":%.9g", key, v);
  else
    printf("\"%s\":null", key);
}

static void show_json(const progress_step *s) {
  printf("{\"step\":%lld,", (long long)s->step);
  print_number("loss", s->loss);
  putchar(',');
  print_number("lr", s->lr);
  putchar(',');
  print_number("grad_norm", s->grad_norm);
  putchar(',');
  print_number("tokens_per_s", (double)s->tokens / s->seconds);
  printf("}\n");
  fflush(stdout);
}

/* Without a terminal: the first step, then about one line every two seconds, and the last. */
static bool due(progress *p, const progress_step *s, double now) {
  double every = p->terminal ? 0.1 : 2.0;
  if (s->step != p->first + 1 && s->step != p->last && now - p->shown < every) return false;
  p->shown = now;
  return true;
}

void progress_show(progress *p, const progress_step *s) {
  double rate = (double)s->tokens / s->seconds;
  p->rate = p->rate > 0 ? 0.9 * p->rate + 0.1 * rate : rate;
  if (p->json) {
    show_json(s);
    return;
  }
  double now = cli_now();
  if (!due(p, s, now)) return;
  double done = (double)(s->step - p->first), left = (double)(p->last - s->step);
  int eta = (int)((now - p->start) / done * left + 0.5);
  printf("%sstep %lld/%lld  loss %.4f  lr %.2e  %.0f tokens/s  ETA %d:%02d%s",
         p->terminal ? "\r" : "", (long long)s->step, (long long)p->last, s->loss, s->lr, p->rate,
         eta / 60, eta % 60, p->terminal ? "\x1b[K" : "\n");
  fflush(stdout);
}

void progress_end(progress *p) {
  if (p->terminal) putchar('\n');
  fflush(stdout);
}
