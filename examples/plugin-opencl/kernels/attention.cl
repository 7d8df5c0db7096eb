
/* ---- attention.cl: one query, or one key, a group; never the T x S matrix.
 *
 * A block of LANES keys at a time: first a lane is a key and computes its score, then a lane is a
 * few of the head's elements and sums over the block. (The running rescaling: Milakov and
 * Gimelshein 2018; the gradient from lse: Dao et al. 2022.) */
#define HEAD_ARGS                                                                                  \
  long T, long S, long H, long G, long D, float scale, long causal, long window
#define STRIDES(x) long x##0, long x##1, long x##2
#define AT(x, b, t, h) (x + (b) * x##0 + (t) * x##1 + (h) * x##2)
#define OWNED (MOST_HEAD / LANES) /* elements of a head that a lane sums */

/* The keys [low, high) that a query at this position sees, of `used`. */
static inline void seen(long position, long used, long causal, long window, long *low, long *high) {
  *high = causal ? min(used, position + 1) : used;
  *low = window > 0 ? max((long)0, position - window + 1) : 0;
}

static inline void load_head(__local float *to, __global const float *from, long D) {
  for (int d = get_local_id(0); d < D; d += LANES) to[d] = from[d];
}

static inline float dot(__local const float *a, __global const float *b, long D) {
  float sum = 0;
  for (long d = 0; d < D; d++) sum += a[d] * b[d];
  return sum;
}

SHARED attention(ARG(float, q), ARG(float, k), ARG(float, v), ARG(int, kv_len), ARG(float, o),
                 ARG(float, lse), STRIDES(q), STRIDES(k), STRIDES(v), STRIDES(o), HEAD_ARGS) {
  __local float query[MOST_HEAD], weight[LANES], scratch[LANES];
  USE(float, q);
  USE(float, k);
  USE(float, v);
  USE(int, kv_len);
  USE(float, o);
  USE(float, lse);
  const long group = get_group_id(0), t = group % T, h = group / T % H, b = group / T / H;
  const int lane = get_local_id(0);
  const long used = GIVEN(kv_len) ? kv_len[b] : S, g = h / (H / G);
  long low, high;
  seen(used - T + t, used, causal, window, &low, &high);
  load_head(query, AT(q, b, t, h), D);
  float most = -INFINITY, sum = 0, own[OWNED] = {0};
  for (long first = low; first < high; first += LANES) {
    const long count = min((long)LANES, high - first);
    barrier(CLK_LOCAL_MEM_FENCE);
    const float score =
        lane < count ? scale * dot(query, AT(k, b, first + lane, g), D) : -INFINITY;
    const float now = fmax(most, lanes_max(score, scratch));
    const float fade = most == now ? 1 : exp(most - now);
    weight[lane] = lane < count ? exp(score - now) : 0;
    sum = sum * fade + lanes_sum(weight[lane], scratch); /* its barriers publish weight */
    most = now;
    for (int i = 0, d = lane; d < D; i++, d += LANES) {
      float part = 0;
      for (long j = 0; j < count; j++) part += weight[j] * AT(v, b, first + j, g)[d];
      own[i] = own[i] * fade + part;
    }
  }
  for (int i = 0, d = lane; d < D; i++, d += LANES)
    AT(o, b, t, h)[d] = high > low ? own[i] / sum : 0;
  if (lane == 0 && GIVEN(lse))
    lse[(b * H + h) * T + t] = high > low ? most + log(sum) : -INFINITY;
}

/* delta[b,h,t] = do . o */
SINGLE attention_delta(ARG(float, dout), ARG(float, o), ARG(float, delta), STRIDES(dout),
                       STRIDES(o), long n, long T, long H, long D) {
  USE(float, dout);
  USE(float, o);
  USE(float, delta);
  const long i = get_global_id(0);
  if (i >= n) return;
  const long t = i % T, h = i / T % H, b = i / T / H;
  float sum = 0;
  for (long d = 0; d < D; d++) sum += AT(dout, b, t, h)[d] * AT(o, b, t, h)[d];
  delta[i] = sum;
}

SHARED attention_dq(ARG(float, dout), ARG(float, q), ARG(float, k), ARG(float, v), ARG(float, lse),
                    ARG(float, delta), ARG(int, kv_len), ARG(float, dq), STRIDES(dout), STRIDES(q),
                    STRIDES(k), STRIDES(v), STRIDES(dq), HEAD_ARGS, long accumulate) {
  __local float query[MOST_HEAD], dhead[MOST_HEAD], weight[LANES];
  USE(float, dout);
  USE(float, q);
  USE(float, k);
  USE(float, v);
  USE(float, lse);
  USE(float, delta);
  USE(int, kv_len);
  USE(float, dq);
  const long group = get_group_id(0), t = group % T, h = group / T % H, b = group / T / H;
  const int lane = get_local_id(0);
  const long used = GIVEN(kv_len) ? kv_len[b] : S, g = h / (H / G);
  long low, high;
  seen(used - T + t, used, causal, window, &low, &high);
  load_head(query, AT(q, b, t, h), D);
  load_head(dhead, AT(dout, b, t, h), D);
  const float row_lse = lse[group], row_delta = delta[group];
  float own[OWNED] = {0};
  for (long first = low; first < high; first += LANES) {
    const long count = min((long)LANES, high - first);
    barrier(CLK_LOCAL_MEM_FENCE);
    weight[lane] = 0;
    if (lane < count) {
      const float p = exp(scale * dot(query, AT(k, b, first + lane, g), D) - row_lse);
      weight[lane] = p * (dot(dhead, AT(v, b, first + lane, g), D) - row_delta) * scale;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = 0, d = lane; d < D; i++, d += LANES)
      for (long j = 0; j < count; j++) own[i] += weight[j] * AT(k, b, first + j, g)[d];
  }
  for (int i = 0, d = lane; d < D; i++, d += LANES) put(&AT(dq, b, t, h)[d], own[i], accumulate);
}

/* One key: over the query heads that share it, and the queries that see it. */
SHARED attention_dkv(ARG(float, dout), ARG(float, q), ARG(float, k), ARG(float, v), ARG(float, lse),
                     ARG(float, delta), ARG(int, kv_len), ARG(float, dk), ARG(float, dv),
                     STRIDES(dout), STRIDES(q), STRIDES(k), STRIDES(v), STRIDES(dk), STRIDES(dv),
                     HEAD_ARGS, long dk_accumulate, long dv_accumulate) {
  __local float key[MOST_HEAD], value[MOST_HEAD], weight[LANES], dweight[LANES];
  USE(float, dout);
  USE(float, q);
  USE(float, k);
  USE(float, v);
  USE(float, lse);
  USE(float, delta);
  USE(int, kv_len);
  USE(float, dk);
  USE(float, dv);
  const long group = get_group_id(0), s = group % S, g = group / S % G, b = group / S / G;
  const int lane = get_local_id(0);
  const long used = GIVEN(kv_len) ? kv_len[b] : S, start = used - T; /* position of query 0 */
  /* A query before position 0 sees no key when causal; else the low end alone decides. */
  long low = causal ? max((long)0, s - start) : 0;
  long high = window > 0 ? min(T, s + window - start) : T;
  if (s >= used) high = low;
  load_head(key, AT(k, b, s, g), D);
  load_head(value, AT(v, b, s, g), D);
  float own_k[OWNED] = {0}, own_v[OWNED] = {0};
  for (long h = g * (H / G); h < (g + 1) * (H / G); h++)
    for (long first = low; first < high; first += LANES) {
      const long count = min((long)LANES, high - first), row = (b * H + h) * T + first;
      barrier(CLK_LOCAL_MEM_FENCE);
      weight[lane] = dweight[lane] = 0;
      if (lane < count) {
        const float p = exp(scale * dot(key, AT(q, b, first + lane, h), D) - lse[row + lane]);
        const float dp = dot(value, AT(dout, b, first + lane, h), D);
        weight[lane] = p;
        dweight[lane] = p * (dp - delta[row + lane]) * scale;
      }
      barrier(CLK_LOCAL_MEM_FENCE);
      for (int i = 0, d = lane; d < D; i++, d += LANES)
        for (long j = 0; j < count; j++) {
          own_k[i] += dweight[j] * AT(q, b, first + j, h)[d];
          own_v[i] += weight[j] * AT(dout, b, first + j, h)[d];
        }
    }
  for (int i = 0, d = lane; d < D; i++, d += LANES) {
    put(&AT(dk, b, s, g)[d], own_k[i], dk_accumulate);
    put(&AT(dv, b, s, g)[d], own_v[i], dv_accumulate);
  }
}
