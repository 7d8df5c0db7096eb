/* loader.h - from a candidate file to checked tables.
 *
 * Before a file is loaded for the first time in a process, a child process tries it (probe.h): what
 * crashes, hangs, exits or prints there is refused, and never loaded here. The verdict is kept for
 * as long as the file stays the same and no more time is given. What the dynamic linker refuses is
 * tried again the next time. Signal handlers, the thread's signal mask and its rounding are put
 * back after loading (guard.h).
 *
 * A plugin is loaded and asked (ds_plugin_query) once a process; its answer, good or bad, is kept.
 * That needs the one piece of global state in core: the list of loaded plugins, guarded by a mutex,
 * growing only, never freed (a plugin that answered stays loaded for the life of the process, and
 * pins the library that core is in). Engines share these tables, never devices. The ds_host that a
 * plugin gets is one a process too; what it logs goes to every live listener on that plugin.
 *
 * All functions may be called from any thread.
 */
#ifndef DS_BACKEND_LOADER_H
#define DS_BACKEND_LOADER_H

#include "backend/discovery.h"
#include "base/log.h"

typedef struct ds_loaded ds_loaded;

/* Who hears a plugin's log. Owned by the caller, linked into the loader's list while it listens. */
typedef struct ds_listener {
  const ds_loaded *plugin;
  ds_logger logger;
  struct ds_listener *next;
} ds_listener;

/* Loads, negotiates and checks. The candidate may be the built-in reference. *out lives as long as
 * the process. probe_seconds limits the child; 0: the usual limit, negative: no child. The failure
 * says why and what to do; its message names neither plugin nor file. The logger hears what the
 * plugin logs meanwhile; it must not open or close backends. */
DS_MUST_USE ds_status ds_loader_load(const ds_candidate *c, double probe_seconds,
                                     const ds_logger *logger, const ds_loaded **out, ds_error *err);

/* The plugin's tables as core knows them: a member or function that the plugin does not have is
 * NULL, and the required ones are there, so that callers need no DS_HAS. */
const ds_plugin *ds_loaded_plugin(const ds_loaded *l);

/* Between add and remove, l's log goes to listener->logger (also from other threads; never after
 * remove has returned). */
void ds_loader_listen(ds_listener *listener, const ds_loaded *l, const ds_logger *logger);
void ds_loader_unlisten(ds_listener *listener); /* harmless on a zeroed one */

#endif
