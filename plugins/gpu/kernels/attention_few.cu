/* attention_few.cu - attention for few queries and many keys, as when tokens are generated one by one ("flash-decoding", Dao et
 * al. 2023). Bound by reading keys and values: each is read once for GPU_ATTENTION_FEW_ROWS queries, be they of one head or
 * of heads that share it, 16 bytes a lane, without shared memory.
 *
 * A block takes one of `splits` parts of the keys that are in use, LANES lanes one key at a time; what the
 * parts found is put together by a second kernel in their order. How many keys are in use is read on
 * the device: the launches depend on capacities only, and can be recorded. */
#include "attention_tile.h"

enum { FEW_THREADS = 128 };

/* An unfinished softmax: of a row, by one group of lanes, or of a part. */
struct attention_state {
  float most, sum; /* in powers of 2 */
};

GPU_DEVICE float attention_rescale(float was, float now) {
  return was == -INFINITY ? 0 : gpu_exp2_fast(was - now);
}

/* A lane's elements of a row of D: chunk c of lane l stands at (c LANES + l) * PER. */
template <typename T, int LANES, int CHUNKS> struct attention_row {
  enum { PER = 16 / sizeof(T), HERE = CHUNKS * PER };
  gpu_vec<T, PER> chunk[CHUNKS];

  GPU_DEVICE int place(int c) { return (c * LANES + (int)threadIdx.x % LANES) * PER; }

  GPU_DEVICE void load(attention_row &to, const T *row, int dim, bool vector) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      const int at = place(c);
      if (vector && at < dim) {
        to.chunk[c] = *reinterpret_cast<const gpu_vec<T, PER> *>(row + at);
      } else {
#pragma unroll
        for (int i = 0; i < PER; i++)
          to.chunk[c].at[i] = at + i < dim ? row[at + i] : gpu_from<T>(0);
      }
    }
  }
  GPU_DEVICE void zero(attention_row &to) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
#pragma unroll
      for (int i = 0; i < PER; i++) to.chunk[c].at[i] = gpu_from<T>(0);
  }
  GPU_DEVICE float at(const attention_row &of, int e) {
    return gpu_f32(of.chunk[e / PER].at[e % PER]);
  }
};

/* Query `row` of a group of heads: they are counted head by head within a time. */
struct attention_query {
  int t, h;
};
GPU_DEVICE attention_query attention_query_of(const gpu_attention &p, int g, int row) {
  const int heads = p.heads / p.groups;
  return {row / heads, g * heads + row % heads};
}

GPU_DEVICE float *attention_part(const gpu_attention &p, int64_t b, int g, int row, int split) {
  const int64_t rows = (int64_t)p.time * (p.heads / p.groups);
  return p.scratch + (((b * p.groups + g) * rows + row) * p.splits + split) * (p.dim + 2);
}

/* blockIdx.x: split, then tile of rows, group, batch. */
template <typename T, int LANES, int CHUNKS, int ROWS>
GPU_KERNEL(FEW_THREADS)
attention_few(const gpu_attention p) {
  typedef attention_row<T, LANES, CHUNKS> vec;
  enum { PER = vec::PER, HERE = vec::HERE, GROUPS = FEW_THREADS / LANES };
  enum { AHEAD = ROWS > 4 ? 2 : 4 }; /* keys in flight, for each group of lanes */
  GPU_SHARED(float, parts, GROUPS *(LANES * HERE + 2));
  const int rows = p.time * (p.heads / p.groups), tiles = (rows + ROWS - 1) / ROWS;
  const int split = (int)(blockIdx.x % p.splits), tile = (int)(blockIdx.x / p.splits % tiles);
  const int bg = (int)(blockIdx.x / p.splits / tiles), g = bg % p.groups, b = bg / p.groups;
  const attention_sight sight = attention_sight_of(p, b);
  const float scale = p.scale * GPU_ATTENTION_LOG2E;
  const int lane = (int)threadIdx.x % LANES, group = (int)threadIdx.x / LANES;

  /* What any of these rows sees, in equal parts, of which there are fewer than blocks where keys are few:
   * as many as the keys in use ask for, whatever room there is for more, so that the room changes no
   * bits. */
  const int last = tile * ROWS + ROWS < rows ? tile * ROWS + ROWS - 1 : rows - 1;
  const int begin = attention_begin(sight, attention_query_of(p, g, tile * ROWS).t);
  const int end = attention_end(sight, attention_query_of(p, g, last).t);
  const int step = GROUPS * AHEAD, all = begin < end ? end - begin : 0;
  const int wanted = (all + GPU_ATTENTION_LEAST_KEYS - 1) / GPU_ATTENTION_LEAST_KEYS;
  const int taken = wanted < 1 ? 1 : wanted < p.splits ? wanted : p.splits;
  const int each = (all + taken - 1) / taken;
  const int from = begin + split * each, to = from + each < end ? from + each : end;

  float q[ROWS][HERE], out[ROWS][HERE];
  attention_state state[ROWS];
  int sees_from[ROWS], sees_to[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const int row = tile * ROWS + r;
    const attention_query query = attention_query_of(p, g, row < rows ? row : rows - 1);
    vec of_q;
    vec::load(of_q,
              static_cast<const T *>(p.q.data) + b * p.q.batch + query.h * p.q.head +
                  (int64_t)query.t * p.q.row,
              p.dim, p.vector);
#pragma unroll
    for (int e = 0; e < HERE; e++) q[r][e] = vec::at(of_q, e) * scale, out[r][e] = 0;
    state[r] = {-INFINITY, 0};
    sees_from[r] = attention_begin(sight, query.t);
    sees_to[r] = row < rows ? attention_end(sight, query.t) : 0;
  }
  const T *const k = static_cast<const T *>(p.k.data) + b * p.k.batch + g * p.k.head;
  const T *const v = static_cast<const T *>(p.v.data) + b * p.v.batch + g * p.v.head;
  for (int base = from; base < to; base += step) {
    vec keys[AHEAD], values[AHEAD];
#pragma unroll
    for (int a = 0; a < AHEAD; a++) {
      const int j = base + a * GROUPS + group;
      if (j < to)
        vec::load(keys[a], k + (int64_t)j * p.k.row, p.dim, p.vector);
      else
        vec::zero(keys[a]);
    }
#pragma unroll
    for (int a = 0; a < AHEAD; a++) {
      const int j = base + a * GROUPS + group;
      if (j < to)
        vec::load(values[a], v + (int64_t)j * p.v.row, p.dim, p.vector);
      else
        vec::zero(values[a]);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float score[AHEAD], most = state[r].most;
#pragma unroll
      for (int a = 0; a < AHEAD; a++) {
        const int j = base + a * GROUPS + group;
        float dot = 0;
#pragma unroll
        for (int e = 0; e < HERE; e++) dot = fmaf(q[r][e], vec::at(keys[a], e), dot);
#pragma unroll
        for (int by = LANES / 2; by; by /= 2) dot += gpu_shuffle_xor(dot, by);
        score[a] = j < to && j >= sees_from[r] && j < sees_to[r] ? dot : -INFINITY;
        most = fmaxf(most, score[a]);
      }
      const float factor = attention_rescale(state[r].most, most);
      state[r].most = most;
      state[r].sum *= factor;
#pragma unroll
      for (int e = 0; e < HERE; e++) out[r][e] *= factor;
#pragma unroll
      for (int a = 0; a < AHEAD; a++) {
        const float weight = score[a] == -INFINITY ? 0 : gpu_exp2_fast(score[a] - most);
        state[r].sum += weight;
#pragma unroll
        for (int e = 0; e < HERE; e++) out[r][e] = fmaf(weight, vec::at(values[a], e), out[r][e]);
      }
    }
  }

  /* The groups' results, row by row, by all threads: a thread has element e of the row. */
  enum { PART = LANES * HERE + 2 };
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    gpu_sync();
#pragma unroll
    for (int e = 0; e < HERE; e++) parts[group * PART + vec::place(e / PER) + e % PER] = out[r][e];
    if (lane == 0) {
      parts[group * PART + PART - 2] = state[r].most;
      parts[group * PART + PART - 1] = state[r].sum;
    }
    gpu_sync();
    const int row = tile * ROWS + r;
    float most = -INFINITY, sum = 0;
    for (int i = 0; i < GROUPS; i++) most = fmaxf(most, parts[i * PART + PART - 2]);
    for (int i = 0; i < GROUPS; i++)
      sum += parts[i * PART + PART - 1] * attention_rescale(parts[i * PART + PART - 2], most);
    if (row < rows) {
      float *to_part = attention_part(p, b, g, row, split);
      for (int e = (int)threadIdx.x; e < p.dim; e += FEW_THREADS) {
        float o = 0;
        for (int i = 0; i < GROUPS; i++)
          o += parts[i * PART + e] * attention_rescale(parts[i * PART + PART - 2], most);
        to_part[e] = o;
      }
      if (threadIdx.x == 0) to_part[p.dim] = most, to_part[p.dim + 1] = sum;
    }
  }
}

/* A block for each query, a thread for each element. */
template <typename T> GPU_KERNEL(FEW_THREADS) attention_few_end(const gpu_attention p) {
  const int rows = p.time * (p.heads / p.groups), row = (int)(blockIdx.x % rows);
  const int bg = (int)(blockIdx.x / rows), g = bg % p.groups, b = bg / p.groups;
  const attention_query query = attention_query_of(p, g, row);
  const attention_sight sight = attention_sight_of(p, b);
  const float *part = attention_part(p, b, g, row, 0);
  const int size = p.dim + 2;
  float most = -INFINITY, sum = 0;
  for (int i = 0; i < p.splits; i++) most = fmaxf(most, part[i * size + p.dim]);
  for (int i = 0; i < p.splits; i++)
    sum += part[i * size + p.dim + 1] * attention_rescale(part[i * size + p.dim], most);
  const bool sees = attention_begin(sight, query.t) < attention_end(sight, query.t);
  T *o =
      static_cast<T *>(p.o.data) + b * p.o.batch + query.h * p.o.head + (int64_t)query.t * p.o.row;
  for (int e = (int)threadIdx.x; e < p.dim; e += FEW_THREADS) {
    float all = 0;
    for (int i = 0; i < p.splits; i++)
      all += part[i * size + e] * attention_rescale(part[i * size + p.dim], most);
    o[e] = gpu_from<T>(sees ? all / sum : 0);
  }
  if (p.lse && threadIdx.x == 0)
    p.lse[((int64_t)b * p.heads + query.h) * p.time + query.t] =
        sees ? most / GPU_ATTENTION_LOG2E + logf(sum) : -INFINITY;
}

/* ---------------------------------------------------------------- launches */

template <typename T, int LANES, int CHUNKS, int ROWS>
static gpuError_t attention_launch_rows(gpuStream_t s, const gpu_attention *a) {
  auto few = attention_few<T, LANES, CHUNKS, ROWS>;
  auto end = attention_few_end<T>;
  const int64_t rows = (int64_t)a->time * (a->heads / a->groups);
  const int64_t blocks = (rows + ROWS - 1) / ROWS * a->batch * a->groups * a->splits;
  if (!blocks) return gpuSuccess;
  const gpuError_t code = GPU_LAUNCH(few, dim3((unsigned)blocks), dim3(FEW_THREADS), 0, s, *a);
  if (code != gpuSuccess) return code;
  return GPU_LAUNCH(end, dim3((unsigned)(rows * a->batch * a->groups)), dim3(FEW_THREADS), 0, s,
                    *a);
}

template <typename T, int LANES, int CHUNKS>
static gpuError_t attention_launch(gpuStream_t s, const gpu_attention *a) {
  const int64_t rows = (int64_t)a->time * (a->heads / a->groups);
  if (rows == 1) return attention_launch_rows<T, LANES, CHUNKS, 1>(s, a);
  if (rows <= 4) return attention_launch_rows<T, LANES, CHUNKS, 4>(s, a);
  return attention_launch_rows<T, LANES, CHUNKS, GPU_ATTENTION_FEW_ROWS>(s, a);
}

extern "C" int64_t gpu_attention_few_scratch(const gpu_attention *a) {
  return (int64_t)a->batch * a->heads * a->time * a->splits * (a->dim + 2);
}

extern "C" gpuError_t gpu_attention_few(gpuStream_t s, const gpu_attention *a) {
  if (a->dtype == 0) { /* DS_F32 */
    if (a->dim <= 64) return attention_launch<float, 16, 1>(s, a);
    if (a->dim <= 128) return attention_launch<float, 32, 1>(s, a);
    return attention_launch<float, 32, 2>(s, a);
  }
  if (a->dim <= 64) return attention_launch<gpu_bf16, 8, 1>(s, a);
  if (a->dim <= 128) return attention_launch<gpu_bf16, 16, 1>(s, a);
  return attention_launch<gpu_bf16, 32, 1>(s, a);
}
