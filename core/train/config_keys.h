/* config_keys.h - the table of all config keys; its types are those of config_schema.h. */
#ifndef DS_TRAIN_CONFIG_KEYS_H
#define DS_TRAIN_CONFIG_KEYS_H

#include "train/config_schema.h"

/* Static. */
const ds_config_key *ds_config_keys(size_t *count);

#endif
