/* clip.h - the norm of all gradients, and the factor that bounds it. */
#ifndef DS_OPTIM_CLIP_H
#define DS_OPTIM_CLIP_H

#include "base/status.h"
#include "ds.h"

/* The Euclidean norm of n f32 in device memory. sum: device memory for one f64. Waits. */
DS_MUST_USE ds_status ds_clip_norm(ds_ctx *ctx, const float *x, int64_t n, void *sum, double *norm,
                                   ds_error *err);
/* What gradients of that norm are multiplied by: with c = (norm + 1e-6) / clip it is 1/c where c >
 * 1, and 1 otherwise; clip 0 is off. As DeepSpeed's clip_grad_norm. */
double ds_clip_factor(double norm, double clip);

#endif
