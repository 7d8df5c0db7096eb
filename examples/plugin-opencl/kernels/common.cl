/* common.cl - what the kernels share. The host defines LANES, EACH, TILE, PARTS, MOST_HEAD.
 *
 * A tensor comes as a buffer and a byte offset into it. Two tensors may lie in one buffer, and an
 * output may be an input. Sums are made in one fixed order. */
#ifdef HAVE_F64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif

#define ARG(T, x) __global T *x##_buffer, const ulong x##_offset
#define USE(T, x) __global T *x = (__global T *)((__global uchar *)x##_buffer + x##_offset)
#define GIVEN(x)  (x##_offset != ~(ulong)0)

/* A kernel where LANES work-items share a row; one where each work-item is by itself. */
#define SHARED __kernel __attribute__((reqd_work_group_size(LANES, 1, 1))) void
#define SINGLE __kernel __attribute__((reqd_work_group_size(EACH, 1, 1))) void

static inline void put(__global float *y, float v, long accumulate) {
  *y = accumulate ? *y + v : v;
}

/* The same result in every lane; scratch of LANES floats. */
static inline float lanes_sum(float v, __local float *scratch) {
  const int lane = get_local_id(0);
  barrier(CLK_LOCAL_MEM_FENCE);
  scratch[lane] = v;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int n = LANES / 2; n > 0; n /= 2) {
    if (lane < n) scratch[lane] += scratch[lane + n];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  return scratch[0];
}

static inline float lanes_max(float v, __local float *scratch) {
  const int lane = get_local_id(0);
  barrier(CLK_LOCAL_MEM_FENCE);
  scratch[lane] = v;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int n = LANES / 2; n > 0; n /= 2) {
    if (lane < n) scratch[lane] = fmax(scratch[lane], scratch[lane + n]);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  return scratch[0];
}

static inline float sigmoid(float x) {
  return 1 / (1 + exp(-x));
}

/* The argument of gelu's tanh, doubled: (1 + tanh(u)) / 2 = sigmoid(2u), which loses nothing where
 * tanh is near -1 or 1. */
static inline float gelu_u2(float x) {
  return 1.5957691216f * (x + 0.044715f * x * x * x);
}

/* ds_activation and ds_epilogue by number; 0 is the identity. */
static inline float activate(long kind, float x) {
  switch (kind) {
    case 1: return x * sigmoid(gelu_u2(x));
    case 2: return 0.5f * x * erfc(-x * 0.7071067812f);
    case 3: return x > 0 || isnan(x) ? x : 0;
    case 4: return x / (1 + exp(-x));
    case 5: return tanh(x);
    case 6: return sigmoid(x);
    default: return x;
  }
}

static inline float slope(long kind, float x) {
  switch (kind) {
    case 1: {
      const float u2 = gelu_u2(x), g = sigmoid(u2), rest = sigmoid(-u2);
      return g + g * rest * x * 1.5957691216f * (1 + 0.134145f * x * x);
    }
    case 2: return 0.5f * erfc(-x * 0.7071067812f) + x * 0.3989422804f * exp(-0.5f * x * x);
    case 3: return isnan(x) ? x : x > 0;
    case 4: {
      const float g = sigmoid(x);
      return g * (1 + x * sigmoid(-x));
    }
    case 5: {
      const float t = cosh(x);
      return 1 / (t * t);
    }
    default: return sigmoid(x) * sigmoid(-x);
  }
}
