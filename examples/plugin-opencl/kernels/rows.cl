
/* ---- rows.cl: norms, softmax, losses: LANES work-items share a row; and sums over everything. */

/* A sum with what rounding took from it. A mean may be far smaller than the values. */
static inline float2 add_exactly(float2 a, float2 b) {
  const float s = a.x + b.x, t = s - a.x;
  return (float2)(s, (a.x - (s - t)) + (b.x - t) + a.y + b.y);
}

static inline float lanes_sum_exactly(float2 v, __local float2 *scratch) {
  const int lane = get_local_id(0);
  scratch[lane] = v;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int n = LANES / 2; n > 0; n /= 2) {
    if (lane < n) scratch[lane] = add_exactly(scratch[lane], scratch[lane + n]);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  return scratch[0].x + scratch[0].y;
}

/* layer_norm (centered) and rms_norm. */
SHARED norm(ARG(float, x), ARG(float, weight), ARG(float, bias), ARG(float, y), ARG(float, mean),
            ARG(float, rstd), long cols, float eps, long centered) {
  __local float scratch[LANES];
  __local float2 pairs[LANES];
  USE(float, x);
  USE(float, weight);
  USE(float, bias);
  USE(float, y);
  USE(float, mean);
  USE(float, rstd);
  const long r = get_group_id(0), lane = get_local_id(0);
  x += r * cols;
  y += r * cols;
  float mu = 0, squares = 0;
  if (centered) {
    float2 sum = 0;
    for (long c = lane; c < cols; c += LANES) sum = add_exactly(sum, (float2)(x[c], 0));
    mu = lanes_sum_exactly(sum, pairs) / cols;
  }
  for (long c = lane; c < cols; c += LANES) squares += (x[c] - mu) * (x[c] - mu);
  const float rs = 1 / sqrt(lanes_sum(squares, scratch) / cols + eps);
  for (long c = lane; c < cols; c += LANES)
    y[c] = (x[c] - mu) * rs * weight[c] + (GIVEN(bias) ? bias[c] : 0);
  if (lane == 0 && GIVEN(mean)) mean[r] = mu;
  if (lane == 0 && GIVEN(rstd)) rstd[r] = rs;
}

/* dx = rstd (g - mean(g) - z mean(g z)), g = dy weight, z the normalized x; without a mean given
 * (rms_norm) the first mean is left out. */
SHARED norm_dx(ARG(float, dy), ARG(float, x), ARG(float, weight), ARG(float, mean),
               ARG(float, rstd), ARG(float, dx), long cols, long accumulate) {
  __local float scratch[LANES];
  USE(float, dy);
  USE(float, x);
  USE(float, weight);
  USE(float, mean);
  USE(float, rstd);
  USE(float, dx);
  const long r = get_group_id(0), lane = get_local_id(0);
  const float mu = GIVEN(mean) ? mean[r] : 0, rs = rstd[r];
  float sum = 0, dot = 0;
  dy += r * cols;
  x += r * cols;
  dx += r * cols;
  for (long c = lane; c < cols; c += LANES) {
    const float g = dy[c] * weight[c];
    sum += g;
    dot += g * (x[c] - mu) * rs;
  }
  sum = lanes_sum(sum, scratch);
  dot = lanes_sum(dot, scratch);
  const float mean_g = GIVEN(mean) ? sum / cols : 0, mean_dot = dot / cols;
  for (long c = lane; c < cols; c += LANES)
    put(&dx[c], rs * (dy[c] * weight[c] - mean_g - (x[c] - mu) * rs * mean_dot), accumulate);
}

/* Sums over rows, a column a work-item. */
SINGLE norm_dw(ARG(float, dy), ARG(float, x), ARG(float, mean), ARG(float, rstd),
               ARG(float, dweight), long rows, long cols, long accumulate) {
  USE(float, dy);
  USE(float, x);
  USE(float, mean);
  USE(float, rstd);
  USE(float, dweight);
  const long c = get_global_id(0);
  if (c >= cols) return;
  float sum = 0;
  for (long r = 0; r < rows; r++)
    sum += dy[r * cols + c] * (x[r * cols + c] - (GIVEN(mean) ? mean[r] : 0)) * rstd[r];
  put(&dweight[c], sum, accumulate);
}

SINGLE column_sums(ARG(float, x), ARG(float, y), long rows, long cols, long accumulate) {
  USE(float, x);
  USE(float, y);
  const long c = get_global_id(0);
  if (c >= cols) return;
  float sum = 0;
  for (long r = 0; r < rows; r++) sum += x[r * cols + c];
  put(&y[c], sum, accumulate);
}

/* The largest of a row, and the sum of exp(x - largest), in every lane. */
static inline void row_softmax(__global float *x, long cols, __local float *scratch, float *most,
                               float *sum) {
  float m = -INFINITY, s = 0;
  for (long c = get_local_id(0); c < cols; c += LANES) m = fmax(m, x[c]);
  m = lanes_max(m, scratch);
  for (long c = get_local_id(0); c < cols; c += LANES) s += exp(x[c] - m);
  *sum = lanes_sum(s, scratch);
  *most = m;
}

SHARED softmax(ARG(float, x), ARG(float, y), long cols) {
  __local float scratch[LANES];
  USE(float, x);
  USE(float, y);
  float most, sum;
  x += get_group_id(0) * cols;
  y += get_group_id(0) * cols;
  row_softmax(x, cols, scratch, &most, &sum);
  for (long c = get_local_id(0); c < cols; c += LANES) y[c] = exp(x[c] - most) / sum;
}

/* The first of equals; NaN counts as least. */
static inline bool better(float a, int ia, float b, int ib) {
  if (ib < 0 || ia < 0) return ib < 0 && ia >= 0;
  if (isnan(a) || isnan(b)) return isnan(a) && isnan(b) ? ia < ib : isnan(b);
  return a > b || (a == b && ia < ib);
}

SHARED argmax(ARG(float, x), ARG(int, y), long cols) {
  __local float values[LANES];
  __local int places[LANES];
  USE(float, x);
  USE(int, y);
  const int lane = get_local_id(0);
  int at = -1;
  float v = 0;
  x += get_group_id(0) * cols;
  for (int c = lane; c < cols; c += LANES)
    if (better(x[c], c, v, at)) {
      v = x[c];
      at = c;
    }
  values[lane] = v;
  places[lane] = at;
  barrier(CLK_LOCAL_MEM_FENCE);
  if (lane) return;
  for (int i = 1; i < LANES; i++)
    if (better(values[i], places[i], v, at)) {
      v = values[i];
      at = places[i];
    }
  y[get_group_id(0)] = at;
}

/* A row's log-sum-exp and its part of the loss. */
SHARED cross_entropy_rows(ARG(float, logits), ARG(int, targets), ARG(float, lse),
                          ARG(float, losses), long cols, long ignore) {
  __local float scratch[LANES];
  USE(float, logits);
  USE(int, targets);
  USE(float, lse);
  USE(float, losses);
  const long r = get_group_id(0);
  float most, sum;
  logits += r * cols;
  row_softmax(logits, cols, scratch, &most, &sum);
  if (get_local_id(0)) return;
  const int t = targets[r];
  lse[r] = most + log(sum);
  if (t == ignore)
    losses[r] = 0;
  else /* exact where the logits are large */
    losses[r] = t >= 0 && t < cols ? most - logits[t] + log(sum) : NAN;
}

SHARED cross_entropy_sum(ARG(float, losses), ARG(int, targets), ARG(float, loss), ARG(float, count),
                         long rows, long ignore) {
  __local float scratch[LANES];
  USE(float, losses);
  USE(int, targets);
  USE(float, loss);
  USE(float, count);
  float sum = 0, n = 0;
  for (long r = get_local_id(0); r < rows; r += LANES) {
    sum += losses[r];
    n += targets[r] != ignore;
  }
  sum = lanes_sum(sum, scratch);
  n = lanes_sum(n, scratch);
  if (get_local_id(0)) return;
  loss[0] = n > 0 ? sum / n : 0;
  count[0] = n;
}

SINGLE cross_entropy_dx(ARG(float, dloss), ARG(float, logits), ARG(int, targets), ARG(float, lse),
                        ARG(float, count), ARG(float, dlogits), long n, long cols, long ignore) {
  USE(float, dloss);
  USE(float, logits);
  USE(int, targets);
  USE(float, lse);
  USE(float, count);
  USE(float, dlogits);
  const long i = get_global_id(0);
  if (i >= n) return;
  const int t = targets[i / cols];
  const float p = exp(logits[i] - lse[i / cols]);
  if (t == ignore)
    dlogits[i] = 0;
  else
    dlogits[i] = t >= 0 && t < cols ? dloss[0] / count[0] * (p - (i % cols == t)) : NAN;
}

#ifdef HAVE_F64
/* PARTS partial sums of x or of its squares; the next kernels add them up, one work-item in order.
 */
SHARED partial_sums(ARG(float, x), ARG(double, parts), long n, long square) {
  __local double scratch[LANES];
  USE(float, x);
  USE(double, parts);
  const int lane = get_local_id(0);
  double sum = 0;
  for (long i = get_global_id(0); i < n; i += PARTS * LANES) {
    const double v = x[i];
    sum += square ? v * v : v;
  }
  scratch[lane] = sum;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int w = LANES / 2; w > 0; w /= 2) {
    if (lane < w) scratch[lane] += scratch[lane + w];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  if (lane == 0) parts[get_group_id(0)] = scratch[0];
}

static inline double add_parts(__global double *parts) {
  double sum = 0;
  for (int i = 0; i < PARTS; i++) sum += parts[i];
  return sum;
}

SHARED mean_end(ARG(double, parts), ARG(float, y), long n) {
  USE(double, parts);
  USE(float, y);
  if (get_local_id(0) == 0) y[0] = add_parts(parts) / n;
}

SHARED sum_squares_end(ARG(double, parts), ARG(double, y), long accumulate) {
  USE(double, parts);
  USE(double, y);
  if (get_local_id(0) == 0) y[0] = (accumulate ? y[0] : 0) + add_parts(parts);
}
#endif
