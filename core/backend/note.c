#include "backend/note.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/elf.h"

enum {
  NOTES_MAX = 4096
}; /* a plugin has three or four; a file made to harm must not keep us busy */

static bool is_terminated(const char *text, size_t size) {
  return memchr(text, '\0', size) != NULL;
}

static ds_status check_note(ds_note *n, ds_error *err) {
  if (!is_terminated(n->name, sizeof n->name) || !is_terminated(n->version, sizeof n->version) ||
      !is_terminated(n->needs, sizeof n->needs)) {
    return ds_fail(err, DS_ERR_FORMAT, "its dscore note has a text without an end; build it again");
  }
  size_t length = strlen(n->name);
  if (length == 0 || strspn(n->name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != length) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "its dscore note has an invalid name; a name is made of a-z 0-9 _ -");
  }
  if (strcmp(n->name, "auto") == 0 || strcmp(n->name, "reference") == 0) {
    return ds_fail(err, DS_ERR_FORMAT, "its dscore note has the name \"%s\", which is core's own",
                   n->name);
  }
  if (n->abi.min_minor > n->abi.max_minor) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "its dscore note has the ABI range %u.%u to %u.%u, which is empty", n->abi.major,
                   n->abi.min_minor, n->abi.major, n->abi.max_minor);
  }
  /* Messages print these texts: control characters would let a file forge lines. */
  for (char *p = n->version; *p; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f) *p = '?';
  for (char *p = n->needs; *p; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f) *p = '?';
  return DS_OK;
}

static ds_status read_note(ds_elf_bytes desc, ds_note *out, ds_error *err) {
  ds_note n;
  memset(&n, 0, sizeof n);
  if (!ds_elf_take(desc, 0, &n, sizeof n) || n.size < sizeof n || n.size > desc.size) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "its dscore note has the wrong size (%llu bytes that say they are %u; %zu are "
                   "needed); build it again with DS_PLUGIN_NOTE of ds_abi.h",
                   (unsigned long long)desc.size, n.size, sizeof n);
  }
  DS_TRY(check_note(&n, err));
  memset(out, 0, sizeof *out);
  out->size = sizeof n;
  out->abi = n.abi;
  out->priority = n.priority;
  memcpy(out->name, n.name, strlen(n.name));
  memcpy(out->version, n.version, strlen(n.version));
  memcpy(out->needs, n.needs, strlen(n.needs));
  return DS_OK;
}

/* Rounding up of an offset that lies inside the segment, so that nothing overflows. */
static uint64_t align_up(uint64_t offset, uint64_t align) {
  return (offset + align - 1) & ~(align - 1);
}

/* One PT_NOTE segment. DS_ERR_NOT_FOUND when dscore's note is not in it. */
static ds_status scan_segment(ds_elf_bytes segment, uint64_t align, int *left, ds_note *out,
                              ds_error *err) {
  Elf64_Nhdr h;
  for (uint64_t at = 0; ds_elf_take(segment, at, &h, sizeof h);) {
    char text[sizeof DS_NOTE_NAME];
    uint64_t name = at + sizeof h, desc = align_up(name + h.n_namesz, align);
    if (h.n_namesz > segment.size - name || desc > segment.size ||
        h.n_descsz > segment.size - desc) {
      return ds_fail(err, DS_ERR_FORMAT,
                     "a note reaches beyond its segment; the file is damaged, copy it again");
    }
    if (--*left < 0) return ds_fail(err, DS_ERR_FORMAT, "more than %d notes; no plugin", NOTES_MAX);
    if (h.n_type == DS_NOTE_TYPE && h.n_namesz == sizeof text &&
        ds_elf_take(segment, name, text, sizeof text) &&
        memcmp(text, DS_NOTE_NAME, sizeof text) == 0) {
      ds_elf_bytes body = {segment.data ? segment.data + desc : NULL, segment.fd,
                           segment.base + desc, h.n_descsz};
      return read_note(body, out, err);
    }
    at = align_up(desc + h.n_descsz, align);
  }
  return DS_ERR_NOT_FOUND;
}

static ds_status find_note(ds_elf_bytes file, ds_note *out, ds_error *err) {
  Elf64_Ehdr h;
  int left = NOTES_MAX;
  DS_TRY(ds_elf_header(file, &h, err));
  for (unsigned i = 0; i < h.e_phnum; i++) {
    Elf64_Phdr p;
    ds_elf_bytes segment = {0};
    DS_TRY(ds_elf_segment(file, &h, i, &p, &segment, err));
    if (p.p_type != PT_NOTE) continue;
    ds_status status = scan_segment(segment, p.p_align == 8 ? 8 : 4, &left, out, err);
    if (status != DS_ERR_NOT_FOUND) return status;
  }
  return ds_fail(err, DS_ERR_FORMAT,
                 "a shared object without a dscore note, so no plugin; a plugin has one "
                 "DS_PLUGIN_NOTE (ds_abi.h) in one of its C files");
}

static ds_status parse(ds_elf_bytes file, ds_note *out, ds_error *err) {
  DS_TRY(find_note(file, out, err));
  DS_TRY(ds_elf_check_layout(file, err));
  DS_TRY(ds_elf_check_relocations(file, err));
  return ds_elf_check_search(file, err);
}

ds_status ds_note_parse(const unsigned char *data, size_t size, ds_note *out, ds_error *err) {
  static const unsigned char nothing[1];
  return parse((ds_elf_bytes){size ? data : nothing, -1, 0, size}, out, err);
}

ds_status ds_note_read_fd(int fd, ds_note *out, ds_error *err) {
  struct stat st;
  if (fstat(fd, &st) != 0) return ds_fail(err, DS_ERR_IO, "can't be read: %s", strerror(errno));
  return parse((ds_elf_bytes){NULL, fd, 0, (uint64_t)st.st_size}, out, err);
}

ds_status ds_note_read(const char *path, ds_note *out, ds_error *err) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) {
    return ds_fail(err, errno == ENOENT ? DS_ERR_NOT_FOUND : DS_ERR_IO, "cannot open %s: %s", path,
                   strerror(errno));
  }
  ds_status status = ds_note_read_fd(fd, out, err);
  close(fd);
  return status;
}

ds_status ds_note_negotiate(ds_version_range host, ds_version_range plugin, ds_error *err) {
  bool plugin_newer, common = host.major == plugin.major && plugin.min_minor <= host.max_minor &&
                              host.min_minor <= plugin.max_minor;
  if (common) return DS_OK;
  plugin_newer =
      plugin.major != host.major ? plugin.major > host.major : plugin.min_minor > host.max_minor;
  return ds_fail(err, DS_ERR_VERSION,
                 "speaks ABI %u.%u to %u.%u, this dscore speaks %u.%u to %u.%u: upgrade %s",
                 plugin.major, plugin.min_minor, plugin.major, plugin.max_minor, host.major,
                 host.min_minor, host.major, host.max_minor,
                 plugin_newer ? "dscore" : "the plugin");
}
