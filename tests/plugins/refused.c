/* refused.c - plugins that must be refused, one for each way to be wrong; WRONG says which. */
#define ABI_MAJOR   1  /* an ABI of the future in the note */
#define NO_NOTE     2  /* a shared object like any other */
#define NO_SYMBOL   3  /* a note, but no query */
#define UNAVAILABLE 4  /* the query says that a driver is missing */
#define NO_DEVICE   5  /* everything is there but a device */
#define OTHER_NAME  6  /* the table disagrees with the note */
#define INCOMPLETE  7  /* a required function is NULL */
#define DEPENDENCY  8  /* linked with a library that isn't there */
#define UNDEFINED   9  /* uses a symbol that nobody has */
#define SILENT      10 /* refuses without a word */

#define DEVICES          (WRONG == NO_DEVICE ? 0 : 1)
#define NO_DEVICE_REASON "no card in any slot: plug one in"
#include "device.h"

#if WRONG == ABI_MAJOR
__attribute__((section(".note.dscore"), used, aligned(4)))
const ds_note_section note = {sizeof DS_NOTE_NAME,
                              sizeof(ds_note),
                              DS_NOTE_TYPE,
                              DS_NOTE_NAME,
                              {sizeof(ds_note), {99, 1, 7, 0}, 900, "future", "9.9", ""}};
#elif WRONG != NO_NOTE
DS_PLUGIN_NOTE(NAME, "1.0", 10, "libneeded.so.4");
#endif

/* Refusal must come before any code runs. */
#if WRONG == ABI_MAJOR || WRONG == NO_NOTE
__attribute__((constructor)) static void never(void) {
  abort();
}
#endif

#if WRONG == DEPENDENCY
int ds_test_gone(void);
int ds_test_user(void);
int ds_test_user(void) {
  return ds_test_gone();
}
#elif WRONG == UNDEFINED
int ds_test_nowhere(void);
int ds_test_user(void);
int ds_test_user(void) {
  return ds_test_nowhere();
}
#endif

#if WRONG == INCOMPLETE
#define download NULL
#endif

#if WRONG != NO_SYMBOL
const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static const ds_device_table device = TEST_DEVICE_TABLE(sizeof(ds_device_table), device_copy);
  static const ds_plugin plugin = {
      .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = WRONG == OTHER_NAME ? "impostor" : NAME,
      .version = "1.0",
      .description = "refused",
      .device = &device,
  };
  (void)host;
  (void)host_abi;
  if (WRONG == UNAVAILABLE) {
    fail(err, DS_ERR_NOT_FOUND, "no driver: libvendor.so.1 not found; install vendor-driver");
    return NULL;
  }
  if (WRONG == SILENT) return NULL;
  return &plugin;
}
#endif
