/* fuzz_note.c - any bytes as a plugin file: the note's reader answers, and never steps outside. */
#include <string.h>

#include "backend/note.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ds_note note;
  ds_error err;
  if (ds_note_parse(data, size, &note, &err) != DS_OK) return 0;
  /* What was accepted must be safe to print. */
  if (!memchr(note.name, 0, sizeof note.name) || !memchr(note.version, 0, sizeof note.version) ||
      !memchr(note.needs, 0, sizeof note.needs) || !note.name[0])
    __builtin_trap();
  return 0;
}
