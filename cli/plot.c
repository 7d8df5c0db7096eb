#include "plot.h"

#include "base/file.h"
#include "base/str.h"

#include <math.h>
#include <stdlib.h>

enum { WIDTH = 800, HEIGHT = 420, LEFT = 64, RIGHT = 20, TOP = 36, BOTTOM = 48, MAX_POINTS = 2000 };

/* A step of 1, 2 or 5 times a power of ten that cuts the range into about five. */
static double tick(double range) {
  double power = pow(10, floor(log10(range / 5)));
  double f = range / 5 / power;
  return power * (f < 1.5 ? 1 : f < 3.5 ? 2 : f < 7.5 ? 5 : 10);
}

typedef struct scale {
  double x0, x1, y0, y1;
} scale;

static double px(const scale *s, double x) {
  return LEFT + (x - s->x0) / (s->x1 - s->x0) * (WIDTH - LEFT - RIGHT);
}
static double py(const scale *s, double y) {
  return HEIGHT - BOTTOM - (y - s->y0) / (s->y1 - s->y0) * (HEIGHT - TOP - BOTTOM);
}

static void axes(ds_str *o, const scale *s) {
  double dx = tick(s->x1 - s->x0), dy = tick(s->y1 - s->y0);
  for (double y = ceil(s->y0 / dy) * dy; y <= s->y1 + 1e-9; y += dy)
    ds_str_printf(o,
                  "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
                  "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                  LEFT, WIDTH - RIGHT, py(s, y), py(s, y), LEFT - 8, py(s, y) + 4,
                  round(y * 1e6) / 1e6);
  for (double x = ceil(s->x0 / dx) * dx; x <= s->x1 + 1e-9; x += dx)
    ds_str_printf(o, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", px(s, x),
                  HEIGHT - BOTTOM + 20, x);
  ds_str_printf(o,
                "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">step</text>\n"
                "<text x=\"%d\" y=\"20\">training loss</text>\n",
                (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, LEFT);
}

static void curve(ds_str *o, const scale *s, const int64_t *steps, const float *losses, int64_t n) {
  int64_t group = (n + MAX_POINTS - 1) / MAX_POINTS;
  ds_str_puts(o, "<polyline class=\"curve\" points=\"");
  for (int64_t i = 0; i < n; i += group) {
    double sum = 0;
    int64_t count = 0;
    for (int64_t k = i; k < n && k < i + group; k++, count++) sum += losses[k];
    ds_str_printf(o, "%.1f,%.1f ", px(s, (double)steps[i]), py(s, sum / (double)count));
  }
  ds_str_puts(o, "\"/>\n");
}

ds_status plot_loss(const char *path, const int64_t *steps, const float *losses, int64_t n,
                    ds_error *err) {
  if (n < 1) return ds_fail(err, DS_ERR_INVALID, "no losses to plot");
  scale s = {(double)steps[0], (double)steps[n - 1], losses[0], losses[0]};
  for (int64_t i = 0; i < n; i++) {
    if (losses[i] < s.y0) s.y0 = losses[i];
    if (losses[i] > s.y1) s.y1 = losses[i];
  }
  if (s.x1 <= s.x0) s.x1 = s.x0 + 1;
  if (s.y1 - s.y0 < 1e-6) s.y1 = s.y0 + 1;
  double margin = 0.05 * (s.y1 - s.y0);
  s.y0 -= margin;
  s.y1 += margin;
  ds_str o = {0};
  ds_str_printf(
      &o,
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
      "font-size=\"13\">\n<style>.grid{stroke:#ddd}.curve{fill:none;stroke:#1f5fa8;"
      "stroke-width:1.6}text{fill:#333}</style>\n"
      "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n",
      WIDTH, HEIGHT, WIDTH, HEIGHT);
  axes(&o, &s);
  curve(&o, &s, steps, losses, n);
  ds_str_puts(&o, "</svg>\n");
  ds_status status = ds_str_status(&o, err);
  if (status == DS_OK) status = ds_file_write(path, o.data, o.length, err);
  ds_str_finish(&o);
  return status;
}
