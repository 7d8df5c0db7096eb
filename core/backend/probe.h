/* probe.h - a plugin's first loading, tried in a child process, so that what crashes, hangs, exits
 * or scribbles there does so without the host.
 *
 * The child is a fork of this process. It has default signal handlers, nothing blocked, no core
 * dump, a process group of its own, /dev/null as its input, pipes as its output, and none of the
 * host's other descriptors; none of the host's atexit functions run in it. It dies with the thread
 * that probes. It loads the file as the loader will, calls the query with host services of its own
 * (what the plugin logs there is dropped), and hands the answer to `check`. What it finds stands in
 * memory that both share; so the verdict doesn't depend on who reaps the child: a host may ignore
 * SIGCHLD or wait for any child. A host with a SIGCHLD handler sees one signal more.
 *
 * What a probe can't see: a constructor that behaves differently the second time or that looks at
 * its process id, code that runs later (opening a device, working), and a file that others replace
 * between the probe and the loading, which the loader narrows by comparing identities but can't
 * close. A grandchild that made a session of its own survives.
 */
#ifndef DS_BACKEND_PROBE_H
#define DS_BACKEND_PROBE_H

#include "backend/discovery.h"

enum { DS_PROBE_SECONDS = 10 }; /* the usual limit */

/* Takes what the query gave, as the loader will. Runs in the child: what it writes stays there. */
typedef ds_status ds_probe_check(void *ctx, const ds_plugin *answer, ds_error *err);

typedef struct ds_probe_result {
  bool lasting;      /* of a failure: this file would do it again, so it needs no second try */
  char linker[512];  /* of a failure: the dynamic linker's own words (dlerror), to be explained */
  uint64_t signals;  /* bit i-1: it changes the handler of signal i */
  void *memory;      /* what both shared; see ds_probe_finish */
  char printed[160]; /* what it printed to stderr, on one line; "" when nothing */
} ds_probe_result;

/* DS_OK: it may be loaded. A query that gives no answer (a vendor library is missing) is DS_OK too,
 * for a forked child may see accelerators differently: the real query decides.
 * Else the reason, without the plugin's name:
 *   DS_ERR_INTERNAL  it crashes (which signal, where), ends the process, prints to stdout, or
 *                    closes descriptors that aren't its own
 *   DS_ERR_TIMEOUT   it did not finish within `seconds`
 *   DS_ERR_FORMAT    the linker refuses it (out->linker says why), or it has no query
 *   DS_ERR_IO        no child could be made, or the file changed meanwhile: try again
 *   others           of `check`
 * Takes about as long as loading the plugin does; in a host whose other threads load libraries all
 * the time a few tries, each as long as the first is given to begin (50 ms). */
DS_MUST_USE ds_status ds_probe_run(const ds_candidate *c, double seconds, ds_probe_check *check,
                                   void *ctx, ds_probe_result *out, ds_error *err);

/* Releases what out holds, also after a failure. Call it when the plugin has been loaded: until
 * then this process has the same memory mapped as the child had, so that a damaged file that strays
 * out of its own memory does here what it did there. */
void ds_probe_finish(ds_probe_result *out);

/* The plugin's own ds_plugin_query in a loaded file: one of a library that it needs doesn't count.
 * NULL and err when there is none. */
void *ds_probe_find_query(void *handle, ds_error *err);

#endif
