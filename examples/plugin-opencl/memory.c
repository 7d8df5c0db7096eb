/* memory.c - addresses for buffers that have only handles.
 *
 * An allocation reserves a range of addresses with nothing behind them, so that core's arithmetic
 * works, two allocations never look adjacent, and whoever touches device memory from the host is
 * stopped by the processor. Core makes few allocations and large ones, so a sorted array will do.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "opencl.h"

/* With a page behind that belongs to none: an address just past the end is in no allocation. */
static size_t reserved(size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return (bytes + page - 1) / page * page + page;
}

/* The number of allocations that begin at p or before it. [locked] */
static size_t count_up_to(const ds_device *dev, uintptr_t p) {
  size_t low = 0, high = dev->n_allocations;
  while (low < high) {
    const size_t mid = (low + high) / 2;
    if (dev->allocations[mid].base <= p)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

/* [locked] */
static bool insert(ds_device *dev, allocation a) {
  if (dev->n_allocations == dev->room) {
    const size_t room = dev->room ? 2 * dev->room : 64;
    allocation *grown = realloc(dev->allocations, room * sizeof *grown);
    if (!grown) return false;
    dev->allocations = grown;
    dev->room = room;
  }
  const size_t at = count_up_to(dev, a.base);
  allocation *place = dev->allocations + at;
  memmove(place + 1, place, (dev->n_allocations - at) * sizeof *place);
  *place = a;
  dev->n_allocations++;
  return true;
}

ds_status memory_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err) {
  cl_int code;
  if (bytes == 0) return fail(err, DS_ERR_INVALID, "alloc of 0 bytes");
  if (bytes > dev->most_alloc)
    return fail(err, DS_ERR_MEMORY, "no memory for %zu bytes: one buffer of %s holds at most %zu",
                bytes, dev->name, dev->most_alloc);
  cl_mem buffer = clCreateBuffer(dev->context, CL_MEM_READ_WRITE, bytes, NULL, &code);
  if (code != CL_SUCCESS) return fail_cl(err, code, "clCreateBuffer");
  void *base =
      mmap(NULL, reserved(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  bool ok = base != MAP_FAILED;
  if (ok) {
    pthread_mutex_lock(&dev->lock);
    ok = insert(dev, (allocation){(uintptr_t)base, bytes, buffer});
    pthread_mutex_unlock(&dev->lock);
    if (!ok) munmap(base, reserved(bytes));
  }
  if (!ok) {
    clReleaseMemObject(buffer);
    return fail(err, DS_ERR_MEMORY, "no addresses for %zu bytes", bytes);
  }
  *out = base;
  return DS_OK;
}

void memory_free(ds_device *dev, void *p) {
  allocation a = {0};
  if (!p) return;
  pthread_mutex_lock(&dev->lock);
  const size_t n = count_up_to(dev, (uintptr_t)p);
  if (n > 0 && dev->allocations[n - 1].base == (uintptr_t)p) {
    allocation *place = dev->allocations + n - 1;
    a = *place;
    memmove(place, place + 1, (dev->n_allocations - n) * sizeof *place);
    dev->n_allocations--;
  }
  pthread_mutex_unlock(&dev->lock);
  if (!a.buffer) return; /* not ours */
  clReleaseMemObject(a.buffer);
  munmap(p, reserved(a.bytes));
}

bool memory_find(ds_device *dev, const void *p, cl_mem *buffer, size_t *offset) {
  bool found = false;
  pthread_mutex_lock(&dev->lock);
  const size_t n = count_up_to(dev, (uintptr_t)p);
  if (n > 0) {
    const allocation *a = &dev->allocations[n - 1];
    *buffer = a->buffer;
    *offset = (uintptr_t)p - a->base;
    found = *offset < a->bytes;
  }
  pthread_mutex_unlock(&dev->lock);
  return found;
}
