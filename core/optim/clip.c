#include "optim/clip.h"

#include <math.h>

double ds_clip_factor(double norm, double clip) {
  if (!(clip > 0) || !isfinite(norm)) return 1;
  double c = (norm + 1e-6) / clip;
  return c > 1 ? 1 / c : 1;
}
