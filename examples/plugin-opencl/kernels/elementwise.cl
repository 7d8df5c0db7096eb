
/* ---- elementwise.cl: a work-item is by itself. */
SINGLE add(ARG(float, a), ARG(float, b), ARG(float, y), long n) {
  USE(float, a);
  USE(float, b);
  USE(float, y);
  const long i = get_global_id(0);
  if (i < n) y[i] = a[i] + b[i];
}

SINGLE mul(ARG(float, a), ARG(float, b), ARG(float, y), long n, long accumulate) {
  USE(float, a);
  USE(float, b);
  USE(float, y);
  const long i = get_global_id(0);
  if (i < n) put(&y[i], a[i] * b[i], accumulate);
}

SINGLE scale(ARG(float, x), ARG(float, y), long n, float factor, long accumulate) {
  USE(float, x);
  USE(float, y);
  const long i = get_global_id(0);
  if (i < n) put(&y[i], factor * x[i], accumulate);
}

SINGLE activation(ARG(float, x), ARG(float, y), long n, long kind) {
  USE(float, x);
  USE(float, y);
  const long i = get_global_id(0);
  if (i < n) y[i] = activate(kind, x[i]);
}

SINGLE activation_dx(ARG(float, dy), ARG(float, x), ARG(float, dx), long n, long kind,
                     long accumulate) {
  USE(float, dy);
  USE(float, x);
  USE(float, dx);
  const long i = get_global_id(0);
  if (i < n) put(&dx[i], dy[i] * slope(kind, x[i]), accumulate);
}

/* Rows of width f, steps from row to row. */
SINGLE swiglu(ARG(float, gate), ARG(float, up), ARG(float, y), long n, long f, long gate_step,
              long up_step) {
  USE(float, gate);
  USE(float, up);
  USE(float, y);
  const long i = get_global_id(0);
  if (i >= n) return;
  const long r = i / f, c = i % f;
  y[i] = activate(4, gate[r * gate_step + c]) * up[r * up_step + c];
}

SINGLE swiglu_dx(ARG(float, dy), ARG(float, gate), ARG(float, up), ARG(float, dgate),
                 ARG(float, dup), long n, long f, long gate_step, long up_step, long dgate_step,
                 long dup_step, long dgate_accumulate, long dup_accumulate) {
  USE(float, dy);
  USE(float, gate);
  USE(float, up);
  USE(float, dgate);
  USE(float, dup);
  const long i = get_global_id(0);
  if (i >= n) return;
  const long r = i / f, c = i % f;
  const float g = gate[r * gate_step + c], u = up[r * up_step + c];
  put(&dgate[r * dgate_step + c], dy[i] * u * slope(4, g), dgate_accumulate);
  put(&dup[r * dup_step + c], dy[i] * activate(4, g), dup_accumulate);
}

SINGLE mean_dx(ARG(float, dy), ARG(float, dx), long n, long accumulate) {
  USE(float, dy);
  USE(float, dx);
  const long i = get_global_id(0);
  if (i < n) put(&dx[i], dy[0] / n, accumulate);
}

/* Four dimensions; the host puts missing ones in front. */
SINGLE copy_strided(ARG(float, x), ARG(float, y), long n, long n1, long n2, long n3, long x0,
                    long x1, long x2, long x3, long y0, long y1, long y2, long y3,
                    long accumulate) {
  USE(float, x);
  USE(float, y);
  const long i = get_global_id(0);
  if (i >= n) return;
  const long d3 = i % n3, d2 = i / n3 % n2, d1 = i / n3 / n2 % n1, d0 = i / n3 / n2 / n1;
  put(&y[d0 * y0 + d1 * y1 + d2 * y2 + d3 * y3], x[d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3],
      accumulate);
}

SINGLE adamw(ARG(float, g), ARG(float, p), ARG(float, m), ARG(float, v), long n, float lr,
             float beta1, float rest1, float beta2, float rest2, float eps, float decay,
             float grad_scale, float correction1, float correction2, long decoupled) {
  USE(float, g);
  USE(float, p);
  USE(float, m);
  USE(float, v);
  const long i = get_global_id(0);
  if (i >= n) return;
  const float w = p[i], grad = grad_scale * g[i] + (decoupled ? 0 : decay * w);
  const float first = beta1 * m[i] + rest1 * grad, second = beta2 * v[i] + rest2 * grad * grad;
  m[i] = first;
  v[i] = second;
  p[i] = w - lr * ((decoupled ? decay * w : 0) +
                   first / correction1 / (sqrt(second / correction2) + eps));
}

/* A head of one token a work-item; strides of batch, token, head. */
SINGLE rope(ARG(float, x), ARG(int, pos), ARG(float, inv_freq), ARG(float, y), long n, long t,
            long h, long d, long pairs, long x0, long x1, long x2, long y0, long y1, long y2,
            long interleaved, long inverse, long accumulate) {
  USE(float, x);
  USE(int, pos);
  USE(float, inv_freq);
  USE(float, y);
  const long i = get_global_id(0);
  if (i >= n) return;
  const long head = i % h, token = i / h % t, batch = i / h / t;
  x += batch * x0 + token * x1 + head * x2;
  y += batch * y0 + token * y1 + head * y2;
  const float position = pos[batch * t + token] * (inverse ? -1.0f : 1.0f);
  for (long p = 0; p < pairs; p++) {
    const long at = interleaved ? 2 * p : p, other = interleaved ? at + 1 : p + pairs;
    /* The angle's rounding error is put back: at position 3000 it would be 1e-4. */
    const float f = inv_freq[p], angle = position * f, rest = fma(position, f, -angle);
    const float c0 = cos(angle), s0 = sin(angle);
    const float c = c0 - rest * s0, s = s0 + rest * c0, u = x[at], v = x[other];
    put(&y[at], u * c - v * s, accumulate);
    put(&y[other], v * c + u * s, accumulate);
  }
  for (long p = 2 * pairs; p < d; p++) put(&y[p], x[p], accumulate);
}

/* Rows by id: embedding and gather_rows. */
SINGLE take_rows(ARG(int, ids), ARG(float, table), ARG(float, y), long n, long cols, long rows) {
  USE(int, ids);
  USE(float, table);
  USE(float, y);
  const long i = get_global_id(0);
  if (i >= n) return;
  const int id = ids[i / cols];
  y[i] = id >= 0 && id < rows ? table[id * cols + i % cols] : NAN;
}

/* A column a work-item, its rows in order: no atomics, so the same bits every time. */
SINGLE scatter_rows(ARG(int, ids), ARG(float, dy), ARG(float, dtable), long n, long cols,
                    long rows) {
  USE(int, ids);
  USE(float, dy);
  USE(float, dtable);
  const long c = get_global_id(0);
  if (c >= cols) return;
  for (long r = 0; r < n; r++)
    if (ids[r] >= 0 && ids[r] < rows) dtable[ids[r] * cols + c] += dy[r * cols + c];
}
