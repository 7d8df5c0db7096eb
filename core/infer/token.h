/* token.h - one more token with its work recorded once and launched from then on (backend/record.h):
 * id, position and length lie in device memory, and where the backend has the op `sample`, so does
 * the next id, all that the host reads. */
#ifndef DS_INFER_TOKEN_H
#define DS_INFER_TOKEN_H

#include "infer/engine.h"

/* Finds out whether tokens can be recorded. DS_ERR_UNSUPPORTED, saying what is missing, where "graph"
 * is true. After the sampler's init. */
DS_MUST_USE ds_status ds_token_init(ds_inference *e, ds_error *err);
void ds_token_finish(ds_inference *e);
/* For the generation that begins: the cache is made, the sampler set. */
DS_MUST_USE ds_status ds_token_prepare(ds_inference *e, ds_error *err);
/* Whether ds_token_next is to be used. */
bool ds_token_used(const ds_inference *e);
/* Takes `last` in and gives the token that follows, which is not `banned`. */
DS_MUST_USE ds_status ds_token_next(ds_inference *e, int32_t last, int32_t banned, int32_t *token,
                                    ds_error *err);

#endif
