/* choice.h - the candidates, tried by preference until one opens.
 *
 * The names of the config count in their order; "auto" tries all candidates, highest priority
 * first, equals in the order of discovery, the reference last. Of several candidates with one name
 * - two versions of a plugin - the first that opens is taken, also highest priority first, equals
 * in the order of discovery: versions are not compared, the folders' order decides.
 *
 * One of several ranks of a host that has no device of its own is an error, and the next candidate
 * isn't tried: the other ranks would not follow.
 */
#ifndef DS_BACKEND_CHOICE_H
#define DS_BACKEND_CHOICE_H

#include "backend/backend_impl.h"

typedef struct ds_choice {
  const ds_backend_config *config; /* the caller's, as is the logger */
  const ds_logger *logger;
  ds_candidates candidates;
  char **reasons;      /* by candidate: why it could not be used; NULL while it was not tried */
  ds_backend *backend; /* what opened, or NULL */
  size_t chosen;       /* the candidate it came from */
} ds_choice;

/* That nothing opened is no failure here: out->backend is then NULL. DS_ERR_NOT_FOUND: devices, but
 * none for this rank. */
DS_MUST_USE ds_status ds_choice_make(const ds_backend_config *config, const ds_logger *logger,
                                     ds_choice *out, ds_error *err);
/* Closes the backend, unless the caller took it and set it to NULL. */
void ds_choice_finish(ds_choice *c);

/* Loads and opens one candidate that was not tried yet: *out, or NULL and its reason is set. */
DS_MUST_USE ds_status ds_choice_try(ds_choice *c, size_t candidate, const ds_backend_config *config,
                                    ds_backend **out, ds_error *err);
/* False when no candidate has the name; *near is then one to ask "did you mean" with, or NULL. */
bool ds_choice_knows(const ds_choice *c, const char *name, const char **near);
/* How to call a candidate in a message: its name, else its path. */
const char *ds_choice_name(const ds_candidate *candidate);

#endif
