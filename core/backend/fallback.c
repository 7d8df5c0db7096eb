#include "backend/fallback.h"

const char *ds_fallback_reason(const ds_error *said) {
  return said->message[0] ? said->message : "the plugin does not offer it";
}

ds_status ds_fallback_allow(ds_backend *b, uint32_t kind, const char *what, const char *why,
                            ds_error *err) {
  ds_kind_counter *k = &b->kinds[kind];
  const char *name = ds_kind_name(kind);
  bool computes = kind < DS_KIND_COMPUTE_END;
  if (!b->reference) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "%s: %s (%s): %s", b->label, name, what, why);
  }
  if (b->fallback == DS_FALLBACK_ERROR) {
    return ds_fail(
        err, DS_ERR_UNSUPPORTED,
        "%s: %s (%s): %s, and \"fallback\": \"error\" in the config's \"backend\" "
        "forbids %s; set it to \"warn\" or \"allow\", or choose a backend that offers it",
        b->label, name, what, why,
        computes ? "to run it on the built-in reference" : "to go through the host");
  }
  k->fallbacks++;
  if (b->fallback == DS_FALLBACK_WARN && !k->warned) {
    k->warned = true;
    ds_log(
        &b->logger, DS_LOG_WARN,
        "%s: %s (%s) %s, which is slow: %s (said at the first %s only; \"fallback\": \"allow\" in "
        "the config's \"backend\" silences it)",
        b->label, name, what, computes ? "runs on the reference" : "goes through the host", why,
        name);
  }
  return DS_OK;
}
