/* chatty.c - a plugin whose thread never stops logging: host services must never go away. */
#define DEVICES          1
#define NO_DEVICE_REASON NULL
#include "device.h"

#include <pthread.h>
#include <time.h>

DS_PLUGIN_NOTE("chatty", "1.0", 10, "nothing");

static void *chat(void *arg) {
  const ds_host *host = arg;
  const struct timespec pause_ = {0, 100000};
  for (;;) {
    host->log(host->ctx, DS_LOG_DEBUG, "still here");
    nanosleep(&pause_, NULL);
  }
  return NULL;
}

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static const ds_device_table device = TEST_DEVICE_TABLE(sizeof(ds_device_table), device_copy);
  static const ds_plugin plugin = {
      .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = "chatty",
      .version = "1.0",
      .description = "logs for ever",
      .device = &device,
  };
  pthread_t thread;
  (void)host_abi;
  if (pthread_create(&thread, NULL, chat, (void *)(uintptr_t)host) != 0) {
    fail(err, DS_ERR_DEVICE, "no thread");
    return NULL;
  }
  pthread_detach(thread);
  return &plugin;
}
