/* What a rank holds, put into units by the rules of zero/layout.c - without making a list of all
 * parameters: blocks are alike, so once a block begins as the one before began, all others
 * follow. */
#include "model/params.h"
#include "zero/estimate.h"

#include <math.h>

/* A unit of so many elements is worth a collective of its own (zero/zero.c). */
static const double worth_a_call = 1 << 20;

enum {
  SIZES = 24,
  SEEN = 3 /* blocks that fill `last` with what is before a block */
};

typedef struct fill {
  double least, most, part; /* part: units are multiples of it */
  double open;              /* elements of the unit that isn't closed; 0: none */
  double total, units, largest;
  double entry; /* the unit that the first block begins in */
  bool entered;
  double last[2]; /* sizes of the units before */
  int n_sizes;    /* different ones; of each: */
  double size[SIZES], count[SIZES];
  double lent[SIZES]; /* the most among three units in a row: one whose gradients come, two that are
                         being reduced (zero/reduce.c) */
} fill;

static double least_of(double a, double b) {
  return a < b ? a : b;
}

static double round_up(double n, double multiple) {
  return ceil(n / multiple) * multiple;
}

static void close_unit(fill *f) {
  if (f->open == 0) return;
  double unit = round_up(f->open, f->part);
  int i = 0;
  while (i < f->n_sizes && f->size[i] != unit) i++;
  if (i == f->n_sizes && i < SIZES) f->size[f->n_sizes++] = unit;
  if (i < SIZES) {
    f->count[i]++;
    f->lent[i] = fmax(f->lent[i], 1 + (f->last[0] == unit) + (f->last[1] == unit));
  }
  f->last[1] = f->last[0];
  f->last[0] = unit;
  f->total += unit;
  f->units++;
  if (f->largest < unit) f->largest = unit;
  if (f->entered && f->entry == 0) f->entry = unit;
  f->open = 0;
}

/* n: elements of the next parameter; same: of the module of the one before. */
static void add(fill *f, double n, bool same) {
  if (f->open + n > f->most || (f->open >= f->least && !same)) close_unit(f);
  f->open += n;
}

/* Elements of a parameter here, as the flat buffer keeps it. */
static double local(const ds_estimate_param *p, const ds_estimate_layout *l) {
  double n = p->split == DS_SPLIT_NONE ? p->numel : ceil(p->numel / l->tensor);
  return round_up(n, (double)(l->align < DS_PARAM_ALIGN ? l->align : DS_PARAM_ALIGN));
}

static bool persists(const ds_estimate_param *p, const ds_estimate_layout *l) {
  double n = p->split == DS_SPLIT_NONE ? p->numel : ceil(p->numel / l->tensor);
  bool apart = ds_estimate_shards(l) > 1 || l->offload_param != DS_OFFLOAD_NONE;
  return l->stage == 3 && apart && n <= (double)l->persistence;
}

static void add_block(fill *f, const ds_estimate_model *m, const ds_estimate_layout *l,
                      bool persistent) {
  bool same = false;
  for (int i = 0; i < m->n_block; i++) {
    if (persists(&m->block[i], l) != persistent) continue;
    add(f, local(&m->block[i], l), same);
    f->entered = same = true;
  }
}

/* `times` more of what was added since `before`, which ended as it began. */
static void repeat(fill *f, const fill *before, double times) {
  f->total += times * (f->total - before->total);
  f->units += times * (f->units - before->units);
  for (int i = 0; i < f->n_sizes; i++)
    f->count[i] += times * (f->count[i] - (i < before->n_sizes ? before->count[i] : 0));
}

static void add_blocks(fill *f, const ds_estimate_model *m, const ds_estimate_layout *l,
                       double blocks, bool persistent) {
  for (double i = 0; i < blocks; i++) {
    fill before = *f;
    add_block(f, m, l, persistent);
    if (f->open == before.open && f->units == before.units) return; /* nothing of this kind */
    if (f->open == before.open && i >= SEEN) {
      repeat(f, &before, blocks - i - 1);
      return;
    }
  }
}

static void add_outer(fill *f, const ds_estimate_model *m, const ds_estimate_layout *l, int stage,
                      bool behind, bool persistent) {
  bool first = stage == 0, last = stage == l->pipe - 1;
  for (int i = 0; i < m->n_outer; i++) {
    const ds_estimate_param *p = &m->outer[i];
    bool here = p->end == DS_ESTIMATE_FIRST  ? first
                : p->end == DS_ESTIMATE_LAST ? last
                                             : first || last;
    if (!here || (p->end == DS_ESTIMATE_LAST) != behind || persists(p, l) != persistent) continue;
    add(f, local(p, l), p->same);
  }
}

static fill fill_kind(const ds_estimate_model *m, const ds_estimate_layout *l, int stage,
                      double blocks, bool persistent) {
  double most = fmax(1, least_of((double)l->reduce_bucket, (double)l->gather_bucket));
  fill f = {.most = most, .least = l->overlap ? least_of(most, worth_a_call) : most};
  if (l->stage == 3) {
    if (l->prefetch_bucket > 0) f.most = least_of(most, (double)l->prefetch_bucket);
    f.least = least_of(f.most, l->granularity > 0 ? (double)l->granularity : worth_a_call);
  }
  f.part = (double)l->align * (l->stage > 0 ? ds_estimate_shards(l) : 1);
  add_outer(&f, m, l, stage, false, persistent);
  /* A block is another module than what is before it. */
  add_blocks(&f, m, l, blocks, persistent);
  add_outer(&f, m, l, stage, true, persistent);
  close_unit(&f);
  return f;
}

/* Buffers are kept by size (zero/buffers.c). Of gathered units: as many of each as are among
 * `within` elements in a row, and the one in use. */
static double gathered(const fill *f, double within) {
  double sum = 0;
  for (int i = 0; i < f->n_sizes; i++) {
    double all = f->count[i] * f->size[i];
    sum += fmin(all, f->size[i] * (1 + floor(within * all / f->total / f->size[i])));
  }
  return sum;
}

double ds_estimate_reused(const ds_estimate_layout *l, const ds_estimate_held *h) {
  /* From its use to the next one lies what comes behind it, forward and back. */
  double within = (double)l->max_reuse / 2, live = (double)l->max_live;
  if (2 * h->partitioned <= (double)l->max_reuse) within = h->partitioned;
  return fmin(h->partitioned, fmin(within, live));
}

/* Elements that stay gathered, and that are fetched ahead. */
static double gathered_within(const ds_estimate_layout *l, const ds_estimate_held *h) {
  double reused = ds_estimate_reused(l, h), ahead = 0;
  if (reused == h->partitioned) return reused;
  if (l->overlap) ahead = fmin((double)l->prefetch_bucket, (double)l->max_live - reused);
  return reused + fmax(ahead, 0);
}

ds_estimate_held ds_estimate_hold(const ds_estimate_model *m, const ds_estimate_layout *l,
                                  int pipe_stage) {
  ds_estimate_held h = {.blocks = (double)(m->layers / l->pipe)};
  if (pipe_stage < m->layers % l->pipe) h.blocks++;
  fill large = fill_kind(m, l, pipe_stage, h.blocks, false);
  h.partitioned = large.total;
  h.units = large.units;
  h.largest_unit = large.largest;
  h.entry_unit = large.entry;
  /* In f32 gradients take the buffers of weights that the backward pass is done with: one more of a
   * size is enough. */
  bool shared = l->stage == 3 && l->bytes.weight == l->bytes.gradient;
  for (int i = 0; i < large.n_sizes; i++) h.lent += large.size[i] * (shared ? 1 : large.lent[i]);
  for (int i = 0; i < large.n_sizes; i++) h.distinct += large.size[i];
  if (l->stage < 3) return h;
  fill small = fill_kind(m, l, pipe_stage, h.blocks, true);
  h.persistent = small.total;
  h.largest_persistent = small.largest;
  h.persistent_units = small.units;
  h.gathered = gathered(&large, gathered_within(l, &h));
  for (int i = 0; i < small.n_sizes; i++) h.lent += small.size[i] * small.lent[i];
  return h;
}
