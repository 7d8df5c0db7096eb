/* config_keys.h - the table of all training config keys. */
#ifndef DS_TRAIN_CONFIG_KEYS_H
#define DS_TRAIN_CONFIG_KEYS_H

#include "base/schema.h"

/* Static. */
const ds_schema *ds_config_keys(void);

#endif
