/* suite.c - which sections there are, and the run through them. */
#include "suite.h"

#include <stdio.h>
#include <string.h>

static const unit oracle_units[] = {{"gradients", prove_all, NEEDS_NOTHING, true}, {0}};
static const unit gemm_units[] = {{"gemm", cases_gemm, NEEDS_DEVICE, true}, {0}};
static void quant(conformance *k) {
  tally t = {0};
  if (k->plugin->quant) {
    cases_quant(k);
    return;
  }
  check_unsupported(&t, "the plugin has no quant table");
  check_report(k, &t, "quant", "");
}

static const unit quant_units[] = {{"quant", quant, NEEDS_DEVICE, true}, {0}};
static const unit no_units[] = {{0}};

static const section sections[] = {
    {"abi", elf_units, "the file, the query, the tables, descriptors"},
    {"abi", abi_units, NULL},
    {"abi", descriptor_units, NULL},
    {"device", device_units, "opening, memory, transfers, events"},
    {"device", memory_units, NULL},
    {"lifetime", lifetime_units, "what is opened and closed leaves nothing behind"},
    {"threads", threads_units, "what may be called at the same time"},
    {"oracle", oracle_units, "the references' own gradients, by finite differences"},
    {"gemm", gemm_units, "products"},
    {"quant", quant_units, "quantization"},
    {"ops", NULL, "every op"},
    {"graph", graph_units, "work that is recorded and launched again"},
    {"comm", no_units, "collectives, on several ranks"},
    {"faults", faults_units, "memory that runs out, a store that fails"},
    {"engine", engine_units, "training and generating through the public API"},
};
enum { N_SECTIONS = sizeof sections / sizeof *sections };

bool suite_has_section(const char *name) {
  for (int i = 0; i < N_SECTIONS; i++)
    if (strcmp(name, sections[i].name) == 0) return true;
  return false;
}

void suite_sections(char *text, size_t room) {
  size_t used = 0;
  for (int i = 0; i < N_SECTIONS && used < room; i++)
    if (sections[i].about)
      used += (size_t)snprintf(text + used, room - used, "  %-9s %s\n", sections[i].name,
                               sections[i].about);
}

/* ---------------------------------------------------------------- one run */

typedef struct run {
  const suite *s;
  report_state *report;
  bool cannot;
  bool dead; /* loading it or opening its device ends the process, so every unit would say so */
} run;

/* Lines of a unit that was only run for some of them are dropped here. */
static void on_line(void *ctx, const record *r) {
  run *at = ctx;
  record line = *r;
  if (r->kind != RECORD_LINE) return;
  const char *op = at->s->op;
  bool process = strcmp(r->dtype, "process") == 0 || strcmp(r->dtype, "output") == 0;
  if (op && !process && strcmp(op, r->name) != 0 && strcmp(op, r->section) != 0 &&
      (strncmp(r->name, op, strlen(op)) != 0 || r->name[strlen(op)] != '/'))
    return;
  report_line(at->report, &line);
}

static void on_probe(void *ctx, const record *r) {
  run *at = ctx;
  if (r->kind == RECORD_PLUGIN) {
    report_plugin(at->report, r->name, r->dtype, r->message);
  } else if (r->kind == RECORD_LINE && strcmp(r->dtype, "process") != 0 &&
             strcmp(r->dtype, "output") != 0) {
    fprintf(stderr, "ds conform: %s: %s\n", at->s->path, r->message);
    at->cannot = true;
  } else if (r->kind == RECORD_LINE && strcmp(r->dtype, "process") == 0) {
    report_plugin(at->report, "?", "?", "?"); /* a plugin that crashes is one to report on */
    at->dead = true;
  }
}

static void probe(conformance *k) {
  record r = {.kind = RECORD_PLUGIN};
  ds_device_info info = {.size = sizeof info};
  ds_error err = {0};
  record_name(&r, "", k->plugin->name, k->plugin->version);
  bool told = k->plugin->device->info(k->dev, &info, &err) == DS_OK;
  snprintf(r.message, sizeof r.message, "%.127s", told ? info.name : "?");
  record_write(k->report, &r);
}

static bool wanted(const suite *s, const section *sec, const unit *u) {
  return !s->op || u->many || strcmp(s->op, u->name) == 0 || strcmp(s->op, sec->name) == 0;
}

static void run_section(run *r, const section *sec) {
  if (strcmp(sec->name, "comm") == 0) ranks_run(r->s, on_line, r);
  for (const unit *u = sec->units; u && u->name; u++)
    if (wanted(r->s, sec, u)) child_run(r->s, sec->name, u, NULL, on_line, r);
  for (int i = 0; !sec->units && i < ops_count; i++) {
    const unit u = {ops_table[i].name, cases_ops, NEEDS_DEVICE, false};
    if (wanted(r->s, sec, &u)) child_run(r->s, sec->name, &u, u.name, on_line, r);
  }
}

int suite_run(const suite *s) {
  static const unit probe_unit = {"probe", probe, NEEDS_DEVICE, false};
  run r = {.s = s, .report = report_create(s)};
  if (!r.report) return 2;
  child_run(s, "probe", &probe_unit, NULL, on_probe, &r);
  bool whole = !s->section && !s->op;
  for (int i = 0; i < N_SECTIONS && !r.cannot; i++) {
    if (s->section && strcmp(s->section, sections[i].name) != 0) continue;
    if (!r.dead || !whole || strcmp(sections[i].name, "abi") == 0) run_section(&r, &sections[i]);
  }
  if (r.dead && whole)
    fprintf(stderr,
            "ds conform: of %s only section abi was run: loading the plugin or opening its "
            "device ends the process, and every other check would say that again\n",
            s->path);
  int lines = report_count(r.report);
  if (!r.cannot && lines == 0)
    fprintf(stderr, "ds conform: there is no check \"%s\"%s%s\n", s->op ? s->op : "",
            s->section ? " in section " : "", s->section ? s->section : "");
  return report_finish(r.report, r.cannot || lines == 0);
}

int suite_time(const suite *s) {
  char doing[DOING];
  conformance k = {.section = "time", .only = s->op, .report = -1, .doing = doing};
  ds_error err = {0};
  child_fill(s, &k);
  if (!load_plugin(&k, &err) || !load_device(&k, &err)) {
    fprintf(stderr, "ds conform: %s: %s\n", s->path, err.message);
    return 2;
  }
  timing_all(&k);
  load_close(&k);
  return k.failed ? 1 : 0;
}
