/* rank.c - one rank's process: runs the units of section comm, in step with the others. */
#include "group.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

/* The first seat that is free; its file takes this rank's records. */
static int take_seat(const char *folder, int size, int *file) {
  char path[300];
  for (int seat = 0; seat < size; seat++) {
    snprintf(path, sizeof path, "%s/rank-%d", folder, seat);
    *file = open(path, O_CREAT | O_EXCL | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    if (*file >= 0) return seat;
  }
  return -1;
}

static char *map_doing(const char *folder, int seat) {
  char path[300];
  snprintf(path, sizeof path, "%s/doing-%d", folder, seat);
  int f = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  char *p = MAP_FAILED;
  if (f >= 0 && ftruncate(f, DOING) == 0)
    p = mmap(NULL, DOING, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  if (f >= 0) close(f);
  return p == MAP_FAILED ? NULL : p;
}

static int cannot(int file, const char *message) {
  record r = {.kind = RECORD_CANNOT};
  snprintf(r.message, sizeof r.message, "%s", message);
  record_write(file, &r);
  return 0;
}

static const char *lacking(const ds_comm_table *c) {
  return !c->split ? "split" : !c->rank ? "rank" : !c->abort ? "abort" : NULL;
}

static bool wanted(const suite *s, const unit *u) {
  size_t n = s->op ? strcspn(s->op, "/") : 0;
  return !s->op || strcmp(s->op, "comm") == 0 ||
         (strlen(u->name) == n && strncmp(u->name, s->op, n) == 0);
}

static void run_units(conformance *k, const suite *s, int from) {
  rank_state *r = k->of_section;
  for (int i = from; comm_units[i].name; i++) {
    const unit *u = &comm_units[i];
    record begin = {.kind = RECORD_BEGIN, .cases = i};
    tally t = {.cases = 1};
    if (!wanted(s, u)) continue;
    record_name(&begin, "comm", u->name, "");
    record_write(k->report, &begin);
    check_doing(k, "%s", u->name);
    u->run(k);
    check_doing(k, "%s is done; waiting for the other ranks", u->name);
    group_meet(k, &t);
    if (t.failed) check_report(k, &t, u->name, "step");
  }
  (void)r;
}

static int number_in(const char *folder, const char *name) {
  char path[300];
  int n = 0;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *f = fopen(path, "re");
  if (f && fscanf(f, "%d", &n) != 1) n = 0;
  if (f) fclose(f);
  return n;
}

int suite_rank(const suite *s, const char *folder) {
  static rank_state r;
  conformance k = {.section = "comm", .of_section = &r};
  ds_error err = {0};
  char message[600];
  int file = -1;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  r.folder = folder;
  r.size = atoi(s->ranks);
  r.limit = s->limit;
  kv_folder_init(&r.kv, folder);
  r.seat = take_seat(folder, r.size, &file);
  if (r.seat < 0 || !(k.doing = map_doing(folder, r.seat))) {
    fprintf(stderr, "ds conform: %s is no folder that ds conform made for its ranks\n", folder);
    return 2;
  }
  k.report = file;
  child_fill(s, &k);
  if (!load_plugin(&k, &err) || !load_device(&k, &err)) return cannot(file, err.message);
  if (!k.plugin->comm) return cannot(file, "the plugin has no comm table");
  const char *gap = lacking(k.plugin->comm);
  if (gap) {
    snprintf(message, sizeof message, "the comm table has no %s, so none of this can be tried",
             gap);
    return cannot(file, message);
  }
  ds_comm_world w = {.size = sizeof w};
  check_doing(&k, "comm world");
  if (k.plugin->comm->world(&w, &err) != DS_OK) return cannot(file, err.message);
  if (w.world_size != r.size && w.world_size == 1) {
    snprintf(message, sizeof message, "%d ranks were started, the plugin's comm sees one", r.size);
    return cannot(file, message);
  }
  r.rank = w.rank;
  run_units(&k, s, number_in(folder, "from"));
  load_close(&k);
  check_doing(&k, "the end of the process");
  record_write(file, &(record){.kind = RECORD_DONE});
  return 0;
}
