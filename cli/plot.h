/* plot.h - a loss curve as an SVG file. */
#ifndef DS_CLI_PLOT_H
#define DS_CLI_PLOT_H

#include "ds_abi.h"

#include <stdint.h>

/* n points (step, loss) with rising steps. Points beyond 2000 are averaged in groups. */
ds_status plot_loss(const char *path, const int64_t *steps, const float *losses, int64_t n,
                    ds_error *err);

#endif
