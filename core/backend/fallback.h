/* fallback.h - whether core may stand in for what a plugin lacks: one policy for all kinds of work.
 *
 * Ops, products and quantization run on the reference (dispatch.c, dispatch_quant.c), copies and
 * fills of the device go through the host (transfer.c), packing is left out. Without events core
 * waits. Comm has no fallback: a world of one needs no collectives, and a larger one needs a plugin
 * that has them. */
#ifndef DS_BACKEND_FALLBACK_H
#define DS_BACKEND_FALLBACK_H

#include "backend/backend_impl.h"

/* Before a fallback: counts it, and warns of it once a kind where the policy says so. what: the
 * work in words, with dtypes and shapes; why: what the plugin said, or what it has not. The failure
 * is the policy's: DS_ERR_UNSUPPORTED, naming all of it and the cure. */
DS_MUST_USE ds_status ds_fallback_allow(ds_backend *b, uint32_t kind, const char *what,
                                        const char *why, ds_error *err);

/* A plugin's reason for DS_ERR_UNSUPPORTED. */
const char *ds_fallback_reason(const ds_error *said);

#endif
