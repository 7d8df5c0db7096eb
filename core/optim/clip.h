/* clip.h - the factor that bounds the norm of all gradients. */
#ifndef DS_OPTIM_CLIP_H
#define DS_OPTIM_CLIP_H

/* What gradients of that norm are multiplied by: with c = (norm + 1e-6) / clip it is 1/c where c >
 * 1, and 1 otherwise; clip 0 is off. As DeepSpeed's clip_grad_norm. */
double ds_clip_factor(double norm, double clip);

#endif
