/* comm_card.c - how the ranks of a new communicator meet by way of the store.
 *
 * Each but the first leaves a card: which device of which machine it has, and whether it has NCCL. The first reads all,
 * and leaves a verdict that all go by: NCCL's id, or why there will be no communicator. */
#include "comm.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct card {
  char machine[64]; /* the same for all that can see the same devices */
  char host[64];    /* for messages */
  char bus[32];
  char trouble[512]; /* "": none */
} card;

typedef struct verdict {
  uint32_t status; /* ds_status */
  gpu_nccl_id id;
  char text[900];
} verdict;

/* Longer than anybody waits; what the store adds it to must not overflow. */
enum { NO_LIMIT_MS = 1 << 30 };

static int64_t left_ms(int64_t until) {
  if (until == 0) return NO_LIMIT_MS;
  const int64_t left = (until - gpu_comm_now()) / 1000000;
  return left < 0 ? 0 : left > NO_LIMIT_MS ? NO_LIMIT_MS : left;
}

/* Containers of one machine have names of their own, but one boot. */
static void read_machine(char *out, size_t room) {
  const int f = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  const ssize_t n = f >= 0 ? read(f, out, room - 1) : -1;
  if (f >= 0) close(f);
  if (n <= 0) (void)gethostname(out, room - 1);
  out[n > 0 ? n : (ssize_t)room - 1] = '\0';
}

static void fill_card(card *c, const ds_device *dev, const gpu_nccl **lib) {
  const char *why;
  memset(c, 0, sizeof *c);
  (void)gethostname(c->host, sizeof c->host - 1);
  read_machine(c->machine, sizeof c->machine);
  snprintf(c->bus, sizeof c->bus, "%s", dev->bus);
  *lib = gpu_nccl_open(&why);
  if (*lib == NULL) snprintf(c->trouble, sizeof c->trouble, "%s", why);
}

/* Texts that came from elsewhere end. */
static void end_card(card *c) {
  c->machine[sizeof c->machine - 1] = c->host[sizeof c->host - 1] = '\0';
  c->bus[sizeof c->bus - 1] = c->trouble[sizeof c->trouble - 1] = '\0';
}

static void refuse(verdict *v, ds_status status, const char *text) {
  v->status = (uint32_t)status;
  snprintf(v->text, sizeof v->text, "%s", text);
}

/* One rank a card: NCCL's ranks wait for each other on the device, where two on one would wait for ever. */
static void judge(verdict *v, const card *cards, const int32_t *ranks, int size) {
  char text[sizeof v->text];
  for (int i = 0; i < size && v->status == DS_OK; i++) {
    if (cards[i].trouble[0] != '\0') {
      snprintf(text, sizeof text, "comm: rank %d on %s: %s", ranks[i], cards[i].host,
               cards[i].trouble);
      refuse(v, DS_ERR_NOT_FOUND, text);
    }
    for (int j = 0; j < i && v->status == DS_OK; j++) {
      if (strcmp(cards[i].machine, cards[j].machine) != 0 ||
          strcmp(cards[i].bus, cards[j].bus) != 0)
        continue;
      snprintf(
          text, sizeof text,
          "comm: ranks %d and %d both have the device at %s of %s, and there must be one rank a "
          "device: give each its own, by \"device\" in the config's \"backend\" (left out, it "
          "is the rank's number on its host) or by the variable that hides devices "
          "(CUDA_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES), or start fewer ranks",
          ranks[j], ranks[i], cards[i].bus, cards[i].host);
      refuse(v, DS_ERR_INVALID, text);
    }
  }
}

static void key_of(char *key, size_t room, int member) {
  snprintf(key, room, "card/%d", member);
}

/* The first member's part. */
static ds_status preside(const int32_t *ranks, int size, const ds_kv_store *kv, int64_t until,
                         card *cards, const gpu_nccl *lib, verdict *v, ds_error *err) {
  char key[32];
  ds_status st = DS_OK;
  for (int i = 1; i < size && st == DS_OK; i++) {
    size_t bytes = sizeof cards[i];
    key_of(key, sizeof key, i);
    st = kv->get(kv->ctx, key, &cards[i], &bytes, left_ms(until), err);
    end_card(&cards[i]);
    if (st == DS_ERR_TIMEOUT)
      gpu_fail(err, st, "comm: rank %d did not come to create in time", ranks[i]);
    else if (st == DS_OK && bytes != sizeof cards[i])
      st = gpu_fail(err, DS_ERR_VERSION, "comm: rank %d has another version of this plugin",
                    ranks[i]);
  }
  if (st != DS_OK) return st;
  memset(v, 0, sizeof *v);
  judge(v, cards, ranks, size);
  if (v->status == DS_OK) {
    const gpu_nccl_result code = lib->GetUniqueId(&v->id);
    char text[200];
    snprintf(text, sizeof text, "comm: NCCL gives no id: %s", lib->GetErrorString(code));
    if (code != GPU_NCCL_SUCCESS) refuse(v, DS_ERR_DEVICE, text);
  }
  return kv->set(kv->ctx, "verdict", v, sizeof *v, err);
}

ds_status gpu_comm_meet(ds_device *dev, const int32_t *ranks, int size, int own,
                        const ds_kv_store *kv, int64_t until, const gpu_nccl **lib, gpu_nccl_id *id,
                        ds_error *err) {
  char key[32];
  verdict v;
  size_t bytes = sizeof v;
  ds_status st;
  card *cards = calloc((size_t)size, sizeof *cards);
  if (cards == NULL) return gpu_fail(err, DS_ERR_MEMORY, "comm: no memory for %d ranks", size);
  fill_card(&cards[own], dev, lib);
  if (own == 0) {
    st = preside(ranks, size, kv, until, cards, *lib, &v, err);
  } else {
    key_of(key, sizeof key, own);
    st = kv->set(kv->ctx, key, &cards[own], sizeof cards[own], err);
    if (st == DS_OK) st = kv->get(kv->ctx, "verdict", &v, &bytes, left_ms(until), err);
    if (st == DS_OK && bytes != sizeof v)
      st = gpu_fail(err, DS_ERR_VERSION, "comm: rank %d has another version of this plugin",
                    ranks[0]);
    else if (st == DS_ERR_TIMEOUT)
      gpu_fail(err, st, "comm: rank %d, or one that it waits for, did not come to create in time",
               ranks[0]);
  }
  free(cards);
  if (st != DS_OK) return st;
  v.text[sizeof v.text - 1] = '\0';
  if (v.status != DS_OK) return gpu_fail(err, (ds_status)v.status, "%s", v.text);
  *id = v.id;
  return DS_OK;
}
