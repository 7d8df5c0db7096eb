#include "bench.h"

#include "base/str.h"

#include <string.h>

static const struct {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *summary;
} benchmarks[] = {
    {"gemm", bench_gemm, "matrix products of GPT-2's sizes, against the multiply-add peak"},
    {"ops", bench_ops, "norms, activations, attention, AdamW, ..., against copying"},
    {"quant", bench_quant, "products with quantized weights, against bandwidth and peak"},
    {"train", bench_train, "training steps, against the peak and against another program"},
    {"decode", bench_decode, "generation at batch 1, against the memory's bandwidth"},
    {"comm", bench_comm, "collectives among ranks, by size"},
    {"dispatch", bench_dispatch, "what core adds to one op of a backend"},
};
enum { N_BENCHMARKS = sizeof benchmarks / sizeof *benchmarks };

static void print_help(FILE *f) {
  fprintf(f,
          "usage: ds bench (gemm | ops | quant | train | decode | comm | dispatch) [OPTION]...\n\n"
          "Measures a backend and the engines on this machine, and the machine's own limits in\n"
          "the same run: compare fractions of a limit, not figures of different days.\n\n");
  for (int i = 0; i < N_BENCHMARKS; i++)
    fprintf(f, "  %-10s %s\n", benchmarks[i].name, benchmarks[i].summary);
  fprintf(f, "\n`ds bench gemm --help` and so on explain the options; --json prints one object.\n");
}

int cmd_bench(int argc, char **argv) {
  if (argc < 1) {
    print_help(stderr);
    return 2;
  }
  if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
    print_help(stdout);
    return 0;
  }
  const char *names[N_BENCHMARKS];
  for (int i = 0; i < N_BENCHMARKS; i++) {
    names[i] = benchmarks[i].name;
    if (strcmp(argv[0], names[i]) == 0) return benchmarks[i].run(argc - 1, argv + 1);
  }
  const char *near = ds_nearest(argv[0], names, N_BENCHMARKS);
  fprintf(stderr, "ds bench: unknown benchmark \"%s\"%s%s%s (ds bench --help lists them)\n",
          argv[0], near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
  return 2;
}
