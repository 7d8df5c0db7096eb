/* scatter.cu - rows added up by id, without atomics on floats.
 *
 * Ids are sorted with their row numbers, stably, a digit of 8 bits at a time (counts by block, where each block's digits
 * begin, every item to its place: Satish et al. 2009). Then every CHUNK sorted rows are added up by one group of lanes: an
 * id that begins and ends in its chunk is written at once; pieces of longer ones wait in `heads` and `tails` for
 * join_kernel. Rows of the table that no id names are cleared at last. */
#include "scatter.h"

#include "reduce.h"
#include "vector.h"

namespace {

enum {
  THREADS = 256,
  GROUPS = THREADS / GPU_GROUP,
  ITEMS = 8, /* of a thread */
  TILE = THREADS * ITEMS,
  DIGITS = 256,
  SCAN = 1024,
  CHUNK = 32
};

/* ---------------------------------------------------------------- sort */

struct sort_pass {
  const int32_t *ids; /* of the first pass, which has no keys and rows yet */
  const uint32_t *keys, *rows;
  uint32_t *keys_out, *rows_out, *counts; /* counts [DIGITS,blocks] */
  uint32_t n, entries, shift;
};

/* Ids out of range come last, as `entries`. */
GPU_DEVICE uint32_t key_of(const sort_pass &p, uint32_t i) {
  if (p.keys) return p.keys[i];
  const int32_t id = p.ids[i];
  return id >= 0 && (uint32_t)id < p.entries ? (uint32_t)id : p.entries;
}

GPU_KERNEL(THREADS) sort_count_kernel(sort_pass p) {
  GPU_SHARED(unsigned, count, DIGITS);
  count[threadIdx.x] = 0;
  gpu_sync();
  for (int j = 0; j < ITEMS; j++) {
    const uint32_t i = blockIdx.x * TILE + j * THREADS + threadIdx.x;
    if (i < p.n) gpu_atomic_add(&count[key_of(p, i) >> p.shift & (DIGITS - 1)], 1u);
  }
  gpu_sync();
  p.counts[threadIdx.x * gridDim.x + blockIdx.x] = count[threadIdx.x];
}

/* One block: each count becomes the sum of those before it. */
GPU_KERNEL(SCAN) sort_scan_kernel(uint32_t *counts, uint32_t n) {
  GPU_SHARED(unsigned, scratch, GPU_GROUPS);
  unsigned before = 0;
  for (uint32_t base = 0; base < n; base += SCAN * 4) {
    const uint32_t first = base + threadIdx.x * 4;
    unsigned v[4], sum = 0, total;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      v[j] = first + j < n ? counts[first + j] : 0;
      sum += v[j];
    }
    unsigned at = before + gpu_block_before(sum, scratch, &total);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (first + j < n) counts[first + j] = at;
      at += v[j];
    }
    before += total;
  }
}

GPU_DEVICE uint32_t bit_count(uint32_t x) {
  x -= x >> 1 & 0x55555555u;
  x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
  return ((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24;
}

/* A group has ITEMS runs of 32 items, one after the other, and counts the digits that it met so far: that, and the equal
 * digits in lanes before, is an item's place among the group's. */
GPU_KERNEL(THREADS) sort_place_kernel(sort_pass p) {
  GPU_SHARED(uint32_t, met, GROUPS * DIGITS);
  const uint32_t lane = threadIdx.x % GPU_GROUP, group = threadIdx.x / GPU_GROUP;
  const uint32_t first = blockIdx.x * TILE + group * (GPU_GROUP * ITEMS) + lane;
  const int shift = gpu_lane() / GPU_GROUP * GPU_GROUP; /* the group's part of a ballot */
  uint32_t key[ITEMS], place[ITEMS];
  for (int g = 0; g < GROUPS; g++) met[g * DIGITS + threadIdx.x] = 0;
  gpu_sync();
#pragma unroll
  for (int j = 0; j < ITEMS; j++) {
    const uint32_t i = first + j * GPU_GROUP;
    const bool here = i < p.n;
    key[j] = here ? key_of(p, i) : 0;
    const uint32_t digit = key[j] >> p.shift & (DIGITS - 1);
    uint32_t alike = (uint32_t)(gpu_ballot(here) >> shift);
#pragma unroll
    for (int bit = 0; bit < 8; bit++) {
      const bool set = digit >> bit & 1;
      const uint32_t all = (uint32_t)(gpu_ballot(set) >> shift);
      alike &= set ? all : ~all;
    }
    const uint32_t before = bit_count(alike & ((1u << lane) - 1u));
    uint32_t *count = &met[group * DIGITS + digit];
    place[j] = *count + before;
    gpu_sync_wave();
    if (here && before == 0) *count += bit_count(alike);
    gpu_sync_wave();
  }
  gpu_sync();
  uint32_t at = p.counts[threadIdx.x * gridDim.x + blockIdx.x];
  for (int g = 0; g < GROUPS; g++) {
    const uint32_t n = met[g * DIGITS + threadIdx.x];
    met[g * DIGITS + threadIdx.x] = at;
    at += n;
  }
  gpu_sync();
#pragma unroll
  for (int j = 0; j < ITEMS; j++) {
    const uint32_t i = first + j * GPU_GROUP;
    if (i >= p.n) continue;
    const uint32_t to = met[group * DIGITS + (key[j] >> p.shift & (DIGITS - 1))] + place[j];
    p.keys_out[to] = key[j];
    p.rows_out[to] = p.rows ? p.rows[i] : i;
  }
}

/* ---------------------------------------------------------------- sums */

template <typename T> struct sum_args {
  const uint32_t *keys, *rows; /* sorted */
  const T *dy;
  float *dtable, *heads, *tails; /* heads, tails [chunks,cols] */
  uint8_t *used;                 /* [entries] */
  uint32_t n, entries;
  int64_t cols;
  bool add;
};

template <int N> GPU_DEVICE void add_row(float *row, float (&v)[N], bool add) {
  float was[N];
  if (add) {
    gpu_read<N>(row, was);
#pragma unroll
    for (int j = 0; j < N; j++) v[j] += was[j];
  }
  gpu_write<N>(row, v);
}

/* A group has a chunk and 32 vectors of columns. */
template <typename T, int N> GPU_KERNEL(THREADS) sum_kernel(sum_args<T> a) {
  const uint32_t lane = threadIdx.x % GPU_GROUP;
  const uint32_t chunk = blockIdx.x * GROUPS + threadIdx.x / GPU_GROUP, first = chunk * CHUNK;
  const int64_t col = ((int64_t)blockIdx.y * GPU_GROUP + lane) * N;
  const bool here = first + lane < a.n && first < a.n, reads = col < a.cols;
  const int count = first < a.n ? (int)(a.n - first < CHUNK ? a.n - first : (uint32_t)CHUNK) : 0;
  const uint32_t key = here ? a.keys[first + lane] : a.entries;
  const uint32_t row = here ? a.rows[first + lane] : 0;
  const uint32_t key_before = count && first > 0 ? a.keys[first - 1] : a.entries;
  const uint32_t key_after = count && first + CHUNK < a.n ? a.keys[first + CHUNK] : a.entries;
  float sum[N] = {};
  bool begins = true; /* the id at hand begins in this chunk */
  for (int base = 0; base < CHUNK; base += 4) {
    float v[4][N];
#pragma unroll
    for (int u = 0; u < 4; u++) {
      const int64_t r = gpu_shuffle((int)row, base + u);
      if (reads && base + u < count) gpu_read<N>(a.dy + r * a.cols + col, v[u]);
    }
#pragma unroll
    for (int u = 0; u < 4; u++) {
      const int i = base + u;
      const uint32_t at = (uint32_t)gpu_shuffle((int)key, i);
      const uint32_t next_here = (uint32_t)gpu_shuffle((int)key, (i + 1) % CHUNK);
      if (i >= count || at == a.entries) continue;
      const bool last = i + 1 == count, ends = last || next_here != at;
      const bool goes_on = last && key_after == at;
      if (i == 0) begins = key_before != at;
      if (reads) {
#pragma unroll
        for (int j = 0; j < N; j++) sum[j] += v[u][j];
      }
      if (!ends) continue;
      if (begins && col == 0) a.used[at] = 1;
      if (reads) {
        if (!begins)
          gpu_write<N>(a.heads + chunk * a.cols + col, sum);
        else if (goes_on)
          gpu_write<N>(a.tails + chunk * a.cols + col, sum);
        else
          add_row<N>(a.dtable + at * a.cols + col, sum, a.add);
#pragma unroll
        for (int j = 0; j < N; j++) sum[j] = 0;
      }
      begins = true;
    }
  }
}

/* An id that begins in this chunk and goes on: its tail and the heads of the chunks behind. */
template <typename T, int N> GPU_KERNEL(THREADS) join_kernel(sum_args<T> a) {
  const uint32_t chunk = blockIdx.x * GROUPS + threadIdx.x / GPU_GROUP;
  const uint32_t first = chunk * CHUNK, end = first + CHUNK;
  const int64_t col = ((int64_t)blockIdx.y * GPU_GROUP + threadIdx.x % GPU_GROUP) * N;
  if (end >= a.n || col >= a.cols) return;
  const uint32_t key = a.keys[end - 1];
  if (key == a.entries || a.keys[end] != key) return;
  if (first > 0 && a.keys[first - 1] == key) return;
  float sum[N], more[N];
  gpu_read<N>(a.tails + chunk * a.cols + col, sum);
  for (int64_t next = chunk + 1; next * CHUNK < a.n && a.keys[next * CHUNK] == key; next++) {
    gpu_read<N>(a.heads + next * a.cols + col, more);
#pragma unroll
    for (int j = 0; j < N; j++) sum[j] += more[j];
  }
  add_row<N>(a.dtable + key * a.cols + col, sum, a.add);
}

template <int N>
GPU_KERNEL(THREADS)
clear_kernel(const uint8_t *used, float *dtable, uint32_t entries, int64_t cols) {
  const uint32_t entry = blockIdx.x * GROUPS + threadIdx.x / GPU_GROUP;
  const float zeros[N] = {};
  if (entry >= entries || used[entry]) return;
  for (int64_t c = (int64_t)(threadIdx.x % GPU_GROUP) * N; c < cols; c += GPU_GROUP * N)
    gpu_write<N>(dtable + entry * cols + c, zeros);
}

/* ---------------------------------------------------------------- all together */

static int64_t up16(int64_t bytes) {
  return (bytes + 15) / 16 * 16;
}

/* Where the parts of the scratch begin; the last is its size. */
struct layout {
  int64_t keys[2], rows[2], counts, used, heads, tails, bytes;
};
static layout lay_out(int64_t rows, int64_t entries, int64_t cols) {
  layout l;
  const int64_t list = up16(rows * 4), chunks = (rows + CHUNK - 1) / CHUNK;
  const int64_t pieces = up16(chunks * cols * 4);
  l.keys[0] = 0;
  l.keys[1] = list;
  l.rows[0] = 2 * list;
  l.rows[1] = 3 * list;
  l.counts = 4 * list;
  l.used = l.counts + (rows + TILE - 1) / TILE * DIGITS * 4;
  l.heads = l.used + up16(entries);
  l.tails = l.heads + pieces;
  l.bytes = l.tails + pieces;
  return l;
}

} // namespace

extern "C" size_t gpu_scatter_scratch(int64_t rows, int64_t entries, int64_t cols) {
  return (size_t)lay_out(rows, entries, cols).bytes;
}

namespace {

/* Which of the two lists is sorted at the end. */
static gpuError_t sort(gpuStream_t s, const int32_t *ids, unsigned char *scratch, const layout &l,
                       uint32_t rows, uint32_t entries, int *which) {
  const unsigned blocks = gpu_blocks(rows, TILE);
  gpuError_t e = gpuSuccess;
  int to = 0;
  for (uint32_t shift = 0; shift < 32 && entries >> shift && e == gpuSuccess; shift += 8, to ^= 1) {
    sort_pass p = {};
    p.ids = ids;
    if (shift > 0) {
      p.keys = reinterpret_cast<uint32_t *>(scratch + l.keys[to ^ 1]);
      p.rows = reinterpret_cast<uint32_t *>(scratch + l.rows[to ^ 1]);
    }
    p.keys_out = reinterpret_cast<uint32_t *>(scratch + l.keys[to]);
    p.rows_out = reinterpret_cast<uint32_t *>(scratch + l.rows[to]);
    p.counts = reinterpret_cast<uint32_t *>(scratch + l.counts);
    p.n = rows;
    p.entries = entries;
    p.shift = shift;
    e = GPU_LAUNCH(sort_count_kernel, blocks, THREADS, 0, s, p);
    if (e == gpuSuccess) e = GPU_LAUNCH(sort_scan_kernel, 1, SCAN, 0, s, p.counts, blocks * DIGITS);
    if (e == gpuSuccess) e = GPU_LAUNCH(sort_place_kernel, blocks, THREADS, 0, s, p);
  }
  *which = to ^ 1;
  return e;
}

template <typename T, int N> static gpuError_t sums(gpuStream_t s, const sum_args<T> &a) {
  const unsigned chunks = gpu_blocks(a.n, CHUNK);
  const dim3 grid(gpu_blocks(chunks, GROUPS), gpu_blocks(a.cols, GPU_GROUP * N));
  gpuError_t e = gpuSuccess;
  if (a.n > 0) {
    auto sum = sum_kernel<T, N>;
    auto join = join_kernel<T, N>;
    e = GPU_LAUNCH(sum, grid, THREADS, 0, s, a);
    if (e == gpuSuccess && chunks > 1) e = GPU_LAUNCH(join, grid, THREADS, 0, s, a);
  }
  if (e != gpuSuccess || a.add) return e;
  auto clear = clear_kernel<(N > 4 ? 4 : N)>;
  return GPU_LAUNCH(clear, gpu_blocks(a.entries, GROUPS), THREADS, 0, s, a.used, a.dtable,
                    a.entries, a.cols);
}

} // namespace

extern "C" gpuError_t gpu_scatter_rows(gpuStream_t s, int dtype, const int32_t *ids, const void *dy,
                                       float *dtable, int64_t rows, int64_t entries, int64_t cols,
                                       bool add, void *scratch) {
  if (entries == 0 || cols == 0) return gpuSuccess;
  const layout l = lay_out(rows, entries, cols);
  unsigned char *at = static_cast<unsigned char *>(scratch);
  int which = 0;
  gpuError_t e = gpuMemsetAsync(at + l.used, 0, (size_t)entries, s);
  if (e == gpuSuccess && rows > 0)
    e = sort(s, ids, at, l, (uint32_t)rows, (uint32_t)entries, &which);
  if (e != gpuSuccess) return e;
  GPU_DTYPE_SWITCH(dtype, T, {
    sum_args<T> a = {};
    a.keys = reinterpret_cast<const uint32_t *>(at + l.keys[which]);
    a.rows = reinterpret_cast<const uint32_t *>(at + l.rows[which]);
    a.dy = static_cast<const T *>(dy);
    a.dtable = dtable;
    a.heads = reinterpret_cast<float *>(at + l.heads);
    a.tails = reinterpret_cast<float *>(at + l.tails);
    a.used = at + l.used;
    a.n = (uint32_t)rows;
    a.entries = (uint32_t)entries;
    a.cols = cols;
    a.add = add;
    return cols % 8 == 0 && gpu_aligned(dy, dtable) ? sums<T, 8>(s, a) : sums<T, 1>(s, a);
  });
}
