/* Hostfiles and filters: the cases of DeepSpeed's own tests, and what is an error only here. */
#include "hostfile.h"

#include "test.h"

#include <stdio.h>
#include <stdlib.h>

/* "a:0,1 b:2" */
static const char *show(const run_hosts *h) {
  static char text[512];
  size_t n = 0;
  text[0] = '\0';
  for (int i = 0; i < h->count; i++) {
    n += (size_t)snprintf(text + n, sizeof text - n, "%s%s:", i ? " " : "", h->at[i].name);
    for (int k = 0; k < h->at[i].n_slots; k++)
      n += (size_t)snprintf(text + n, sizeof text - n, "%s%d", k ? "," : "", h->at[i].slots[k]);
  }
  return text;
}

static void parses(const char *text, const char *want) {
  ds_error err;
  run_hosts h = {0};
  CHECK_OK(hostfile_parse(text, "hosts", &h, &err), err);
  if (strcmp(show(&h), want) != 0) fprintf(stderr, "%s\n", show(&h));
  CHECK(strcmp(show(&h), want) == 0);
  hostfile_finish(&h);
}

static void refuses(const char *text, const char *message) {
  ds_error err;
  run_hosts h = {0};
  ds_status status = hostfile_parse(text, "hosts", &h, &err);
  CHECK(status == DS_ERR_FORMAT || status == DS_ERR_INVALID);
  if (!strstr(err.message, message)) fprintf(stderr, "%s\n", err.message);
  CHECK(strstr(err.message, message) != NULL);
  hostfile_finish(&h);
}

static void test_files(void) {
  parses("\n  worker-1 slots=2\n  worker-2 slots=2\n\n  localhost slots=1\n"
         "  123.23.12.10 slots=2\n\n  #worker-1 slots=3\n  # this is a comment\n\n",
         "worker-1:0,1 worker-2:0,1 localhost:0 123.23.12.10:0,1");
  parses("a\tslots=3", "a:0,1,2");
  parses("a slots=1 # the old one\r\nb slots=2\r\n", "a:0 b:0,1");
  parses("a slots=1 max_slots=4\nb slots=1 max-slots=1", "a:0 b:0");
  refuses("worker-1 slots=2\nworker-2 slots=1\nworker-1 slots=1\n",
          "hosts:3: host \"worker-1\" is there a second time");
  refuses("a slots=1\nthis is bad slots=1\n", "hosts:2: \"this is bad slots=1\" is not");
  refuses("missingslots", "hosts:1: \"missingslots\" is not");
  refuses("", "there is no host in it");
  refuses("# a slots=1\n\n", "there is no host in it");
  refuses("a slots=0", "N from 1 to 4096");
  refuses("a slots=", "hosts:1");
  refuses("a slots=-1", "hosts:1");
  refuses("a slots=4x", "hosts:1");
  refuses("a slots=4 b", "hosts:1");
  refuses("a slots=5000", "hosts:1");
  refuses("a slots=99999999999999999999", "hosts:1");
  refuses("a slot=4", "hosts:1");
}

/* want: the hosts left, or "!" and what the message says. */
static void filters(const char *hosts, const char *include, const char *exclude, const char *want) {
  ds_error err;
  run_hosts h = {0};
  CHECK_OK(hostfile_parse(hosts, "hosts", &h, &err), err);
  ds_status status = hostfile_filter(&h, include, exclude, &err);
  const char *got = status == DS_OK ? show(&h) : err.message;
  const bool good = want[0] == '!' ? status != DS_OK && strstr(got, want + 1) : !strcmp(got, want);
  if (!good) fprintf(stderr, "%s / %s: %s\n", include ? include : "", exclude ? exclude : "", got);
  CHECK(good);
  hostfile_finish(&h);
}

static void test_filters(void) {
  const char *one = "worker-0 slots=4", *two = "worker-0 slots=4\nworker-1 slots=4";
  filters(one, NULL, NULL, "worker-0:0,1,2,3");
  filters(one, "", "", "worker-0:0,1,2,3");
  filters(one, NULL, "worker-0:1", "worker-0:0,2,3");
  filters(one, NULL, "worker-0:1,2", "worker-0:0,3");
  filters(one, "worker-0:1", NULL, "worker-0:1");
  filters(one, "worker-0:1,1", NULL, "worker-0:1");
  filters(one, "worker-0:1@worker-0:0,1", NULL, "worker-0:0,1");
  filters(one, "worker-0", NULL, "worker-0:0,1,2,3");
  filters(one, NULL, "worker-0", "!--exclude leaves no host");
  filters(one, NULL, "worker-0:0,1,2,3", "!--exclude leaves no host");
  filters(two, "worker-1:0,3", NULL, "worker-1:0,3");
  filters(two, "worker-1:3,0", NULL, "worker-1:0,3");
  filters(two, NULL, "worker-1", "worker-0:0,1,2,3");
  filters(two, NULL, "worker-0:0,1@worker-1:3", "worker-0:2,3 worker-1:0,1,2");
  filters(two, "worker-0@worker-1:0,2", NULL, "worker-0:0,1,2,3 worker-1:0,2");
  filters(two, "worker-1:0,2@worker-0", NULL,
          "worker-0:0,1,2,3 worker-1:0,2");                /* the file's order */
  filters(two, "worker-0@worker-0:2", NULL, "worker-0:2"); /* there too */
  filters(two, NULL, "worker-1:0", "worker-0:0,1,2,3 worker-1:1,2,3");
  filters(two, "worker-0", "worker-1", "!give one of them");
  filters(two, "jeff", NULL, "!--include: there is no host \"jeff\"");
  filters(two, NULL, "jeff", "!--exclude: there is no host \"jeff\"");
  filters(two, "worker-1:4", NULL, "!host \"worker-1\" has no slot \"4\" (it has 4)");
  filters(two, NULL, "worker-1:4", "!no slot \"4\"");
  filters(two, NULL, "worker-1@worker-0:1@5", "!there is no host \"5\"");
  filters(two, "worker-1:", NULL, "!no slot \"\"");
  filters(two, "worker-1:0,", NULL, "!no slot \"\"");
  filters(two, "worker-1:x", NULL, "!no slot \"x\"");
  filters(two, "worker-1:0:1", NULL, "!no slot \"0:1\"");
  filters(two, "@", NULL, "!no host \"\"");
  filters(two, "worker", NULL, "!no host \"worker\"");
}

int main(void) {
  test_files();
  test_filters();
  return TEST_RESULT();
}
