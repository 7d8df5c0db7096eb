/* kv_folder.h - a ds_kv_store of files in a folder that the ranks of one machine share. */
#ifndef CONFORMANCE_KV_FOLDER_H
#define CONFORMANCE_KV_FOLDER_H

#include "harness.h"

typedef struct kv_folder {
  ds_kv_store store;
  char folder[200];
  int number, first;  /* of the communicator: its keys are its own */
  int calls, fail_at; /* the call numbered fail_at fails (0: none) */
} kv_folder;

void kv_folder_init(kv_folder *kv, const char *folder);
/* The store is another communicator's now, whose first member has world rank `first`. */
void kv_folder_next(kv_folder *kv, int first);
/* Meeting of `size` ranks, each with a seat of its own: true when all have come. */
bool kv_folder_gate(const char *folder, const char *name, int seat, int size, int seconds);
/* Leaves a mark, and counts marks 0 .. size-1 of one name. */
void kv_folder_mark(const char *folder, const char *name, int seat);
int kv_folder_marks(const char *folder, const char *name, int size);

#endif
