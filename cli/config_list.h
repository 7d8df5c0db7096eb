/* config_list.h - ds config --keys. */
#ifndef DS_CLI_CONFIG_LIST_H
#define DS_CLI_CONFIG_LIST_H

/* Every key of a training config on a line of its own: path, default, and what it does here, or why
 * it does nothing. */
void config_list_keys(void);

#endif
