/* record.h - what a child process tells `ds conform`: a line of the report, or where it stands.
 *
 * A record is written at once, so that records of several processes never mix.
 */
#ifndef CONFORMANCE_RECORD_H
#define CONFORMANCE_RECORD_H

#include "harness.h"

typedef enum outcome {
  OUTCOME_PASS,
  OUTCOME_FAIL,
  OUTCOME_UNSUPPORTED, /* declared by the plugin */
  OUTCOME_XFAIL,       /* failed, as --expect says */
  OUTCOME_XPASS,       /* passed, though --expect says that it fails */
  OUTCOME_COUNT
} outcome;

enum {
  RECORD_LINE,   /* of the report */
  RECORD_PLUGIN, /* name, dtype: its version; message: the device */
  RECORD_CANNOT, /* message: why the plugin can't be used at all */
  RECORD_BEGIN,  /* a rank begins the check `name` */
  RECORD_DONE    /* the child did all it had to */
};

typedef struct record {
  int32_t kind, outcome;
  int32_t cases, unsupported, failed;
  double max_err, max_share, tol;
  double when; /* seconds; the first failure among ranks is the one to look at */
  char section[16], name[48], dtype[24];
  char message[1600];
} record;

/* Names become words: "gemm packed" is "gemm-packed". */
void record_name(record *r, const char *section, const char *name, const char *dtype);
/* Sets r->when. */
void record_write(int file, record *r);
/* False at the end of the file. */
bool record_read(int file, record *r);
const char *record_outcome(const record *r);

#endif
