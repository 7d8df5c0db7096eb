#include "base/status.h"
#include "ds.h"

const char *ds_version(void) {
  return DS_VERSION;
}

const char *ds_status_string(ds_status status) {
  return ds_status_name(status);
}
