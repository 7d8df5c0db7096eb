/* open.c - ds_backend_open: what was chosen, what was passed over, or why nothing could be. */
#include "backend/choice.h"
#include "base/str.h"

/* A name before the one that opened which is nowhere, the candidates tried in vain, and what was
 * refused unread: it may be what the user had in mind. */
static void warn_of_passed(const ds_choice *c) {
  const char *using = ds_backend_name(c->backend), *near;
  for (int i = 0; i < c->config->n_names; i++) {
    if (ds_choice_knows(c, c->config->names[i], &near)) continue;
    ds_log(c->logger, DS_LOG_WARN, "backend: there is no plugin \"%s\"%s%s%s; using %s",
           c->config->names[i], near ? " (did you mean \"" : "", near ? near : "",
           near ? "\"?)" : "", using);
  }
  for (size_t i = 0; i < c->candidates.count; i++) {
    const ds_candidate *k = &c->candidates.items[i];
    const char *reason = c->reasons[i] ? c->reasons[i] : k->reason;
    if (!reason) continue;
    ds_log(c->logger, DS_LOG_WARN, "backend: %s is not usable: %s; using %s", ds_choice_name(k),
           reason, using);
  }
}

/* What there is, a line each, as far as an error message has room. */
static ds_status fail_with_list(const ds_choice *c, ds_error *err) {
  const char *near;
  ds_str s = {0};
  ds_str_puts(&s, "no backend could be opened");
  for (int i = 0; i < c->config->n_names; i++) {
    if (ds_choice_knows(c, c->config->names[i], &near)) continue;
    ds_str_printf(&s, "; there is no plugin \"%.64s\"", c->config->names[i]);
    if (near) ds_str_printf(&s, ", did you mean \"%s\"?", near);
  }
  ds_str_puts(&s, "\ncandidates:");
  for (size_t i = 0; i < c->candidates.count; i++) {
    const ds_candidate *k = &c->candidates.items[i];
    const char *reason = c->reasons[i] ? c->reasons[i] : k->reason;
    if (s.length > DS_ERROR_MESSAGE_MAX - 200) {
      ds_str_printf(&s, "\n  and %zu more; ds_backend_list gives them all",
                    c->candidates.count - i);
      break;
    }
    ds_str_printf(&s, "\n  %.200s: %.500s", ds_choice_name(k), reason ? reason : "not asked for");
  }
  ds_status status = ds_str_status(&s, err);
  if (status == DS_OK) status = ds_fail(err, DS_ERR_NOT_FOUND, "%s", s.data);
  ds_str_finish(&s);
  return status;
}

ds_status ds_backend_open(const ds_backend_config *config, const ds_logger *logger,
                          ds_backend **out, ds_error *err) {
  ds_choice c;
  ds_status status = DS_OK;
  *out = NULL;
  DS_TRY(ds_choice_make(config, logger, &c, err));
  if (c.backend) {
    warn_of_passed(&c);
    ds_log(logger, DS_LOG_INFO, "backend: %s %s on %s", ds_backend_name(c.backend),
           ds_backend_plugin(c.backend)->version, ds_backend_device(c.backend));
    *out = c.backend;
    c.backend = NULL;
  } else {
    status = fail_with_list(&c, err);
  }
  ds_choice_finish(&c);
  return status;
}
