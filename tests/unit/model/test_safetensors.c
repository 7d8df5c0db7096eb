#include "model/safetensors.h"

#include "base/file.h"
#include "temp_folder.h"
#include "test.h"

/* ---- writing and reading back */

typedef struct example {
  const char *name;
  int32_t dtype, rank;
  int64_t shape[DS_MAX_RANK];
  const void *data;
  size_t bytes;
} example;

static const float floats[] = {1.5f, -2, 3, 1e-3f, 5, 6};
static const double doubles[] = {0.1, -0.25};
static const int64_t longs[] = {1ll << 40, -1};
static const uint8_t bytes[] = {1, 2, 255};
static const uint16_t halves[] = {0x3f80, 0xc000}; /* bf16 1, -2 */
/* Three bytes before the rest: what follows stands unaligned. */
static const example examples[] = {
    {"odd", DS_U8, 1, {3}, bytes, 3},        {"f32", DS_F32, 2, {2, 3}, floats, 24},
    {"f64", DS_F64, 1, {2}, doubles, 16},    {"i64", DS_I64, 1, {2}, longs, 16},
    {"bf16", DS_BF16, 2, {1, 2}, halves, 4}, {"scalar", DS_F32, 0, {0}, floats, 4},
    {"empty", DS_F32, 2, {0, 7}, NULL, 0},   {"a \"quoted\" \xc3\xa9", DS_F32, 1, {1}, floats, 4},
};
enum { N_EXAMPLES = sizeof examples / sizeof *examples };

static void write_examples(const char *path) {
  ds_safetensors_writer *w;
  ds_error err = {0};
  CHECK_OK(ds_safetensors_writer_create(path, &w, &err), err);
  CHECK_OK(ds_safetensors_writer_metadata(w, "format", "pt", &err), err);
  for (int i = 0; i < N_EXAMPLES; i++)
    CHECK_OK(ds_safetensors_writer_add(w, examples[i].name, examples[i].dtype, examples[i].rank,
                                       examples[i].shape, &err),
             err);
  CHECK_OK(ds_safetensors_writer_metadata(w, "step", "{\"n\": 3}", &err), err);
  CHECK_OK(ds_safetensors_writer_begin(w, &err), err);
  CHECK_FAILS(ds_safetensors_writer_add(w, "late", DS_F32, 0, NULL, &err), DS_ERR_STATE, err,
              "already");
  for (int i = 0; i < N_EXAMPLES; i++) { /* in two pieces */
    const char *data = examples[i].data ? examples[i].data : "";
    size_t half = examples[i].bytes / 2;
    CHECK_OK(ds_safetensors_writer_write(w, data, half, &err), err);
    CHECK_OK(ds_safetensors_writer_write(w, data + half, examples[i].bytes - half, &err), err);
  }
  CHECK_FAILS(ds_safetensors_writer_write(w, "x", 1, &err), DS_ERR_INVALID, err, "more data");
  CHECK(!ds_file_exists(path));
  CHECK_OK(ds_safetensors_writer_commit(w, &err), err);
  ds_safetensors_writer_destroy(w);
}

static void test_round_trip(void) {
  const char *path = temp_path("round.safetensors");
  ds_error err = {0};
  ds_safetensors *s;
  write_examples(path);
  CHECK_OK(ds_safetensors_open(path, &s, &err), err);
  if (!s) return;
  CHECK(ds_safetensors_count(s) == N_EXAMPLES);
  for (int i = 0; i < N_EXAMPLES; i++) {
    const example *e = &examples[i];
    const ds_safetensor *t = ds_safetensors_find(s, e->name);
    CHECK(t && t->dtype == e->dtype && t->rank == e->rank && t->bytes == e->bytes);
    if (!t) continue;
    CHECK(memcmp(t->shape, e->shape, (size_t)e->rank * sizeof *e->shape) == 0);
    CHECK(e->bytes == 0 || memcmp(t->data, e->data, e->bytes) == 0);
  }
  for (size_t i = 1; i < ds_safetensors_count(s); i++)
    CHECK(strcmp(ds_safetensors_at(s, i - 1)->name, ds_safetensors_at(s, i)->name) < 0);
  CHECK(!ds_safetensors_find(s, "no such"));
  CHECK(strcmp(ds_safetensors_metadata(s, "format"), "pt") == 0);
  CHECK(strcmp(ds_safetensors_metadata(s, "step"), "{\"n\": 3}") == 0);
  CHECK(!ds_safetensors_metadata(s, "none"));
  float out[6];
  CHECK_OK(ds_safetensor_read_f32(ds_safetensors_find(s, "f32"), out, &err), err);
  CHECK(memcmp(out, floats, sizeof out) == 0);
  CHECK_OK(ds_safetensor_read_f32(ds_safetensors_find(s, "f64"), out, &err), err);
  CHECK(out[0] == 0.1f && out[1] == -0.25f);
  CHECK_OK(ds_safetensor_read_f32(ds_safetensors_find(s, "bf16"), out, &err), err);
  CHECK(out[0] == 1 && out[1] == -2);
  ds_safetensors_close(s);
  ds_safetensors_close(NULL);
}

/* More than one stretch of the conversion. */
static void test_long_read(void) {
  enum { N = 5000 };
  const char *path = temp_path("long.safetensors");
  static uint16_t stored[N];
  static float out[N];
  ds_safetensors_writer *w;
  ds_safetensors *s;
  ds_error err = {0};
  int64_t n = N;
  for (int i = 0; i < N; i++) stored[i] = (uint16_t)(0x3f80 + i % 128); /* bf16 1 + i/128 */
  CHECK_OK(ds_safetensors_writer_create(path, &w, &err), err);
  CHECK_OK(ds_safetensors_writer_add(w, "x", DS_BF16, 1, &n, &err), err);
  CHECK_OK(ds_safetensors_writer_begin(w, &err), err);
  CHECK_OK(ds_safetensors_writer_write(w, stored, sizeof stored, &err), err);
  CHECK_OK(ds_safetensors_writer_commit(w, &err), err);
  ds_safetensors_writer_destroy(w);
  CHECK_OK(ds_safetensors_open(path, &s, &err), err);
  if (!s) return;
  CHECK_OK(ds_safetensor_read_f32(ds_safetensors_find(s, "x"), out, &err), err);
  int wrong = 0;
  for (int i = 0; i < N; i++) wrong += out[i] != 1 + (float)(i % 128) / 128;
  CHECK(wrong == 0);
  ds_safetensors_close(s);
}

static void test_writer_refusals(void) {
  const char *path = temp_path("refused.safetensors");
  ds_safetensors_writer *w;
  ds_error err = {0};
  int64_t two = 2, negative = -1, huge[] = {1ll << 40, 1ll << 40};
  CHECK_OK(ds_safetensors_writer_create(path, &w, &err), err);
  CHECK_OK(ds_safetensors_writer_add(w, "x", DS_F32, 1, &two, &err), err);
  CHECK_FAILS(ds_safetensors_writer_add(w, "x", DS_F32, 1, &two, &err), DS_ERR_INVALID, err,
              "\"x\" is there already");
  CHECK_FAILS(ds_safetensors_writer_add(w, "n", DS_F32, 1, &negative, &err), DS_ERR_INVALID, err,
              "\"n\"");
  CHECK_FAILS(ds_safetensors_writer_add(w, "h", DS_F32, 2, huge, &err), DS_ERR_INVALID, err,
              "\"h\"");
  CHECK_FAILS(ds_safetensors_writer_add(w, "i4", DS_I4, 1, &two, &err), DS_ERR_INVALID, err, "i4");
  CHECK_FAILS(ds_safetensors_writer_write(w, "x", 1, &err), DS_ERR_STATE, err, "begin");
  CHECK_OK(ds_safetensors_writer_begin(w, &err), err);
  CHECK_OK(ds_safetensors_writer_write(w, floats, 4, &err), err);
  CHECK_FAILS(ds_safetensors_writer_commit(w, &err), DS_ERR_INVALID, err, "4 of 8 bytes");
  ds_safetensors_writer_destroy(w);
  CHECK(!ds_file_exists(path));
  CHECK_OK(ds_safetensors_writer_create(temp_path("no/such/folder"), &w, &err), err);
  CHECK(ds_safetensors_writer_begin(w, &err) != DS_OK);
  ds_safetensors_writer_destroy(w);
  ds_safetensors_writer_destroy(NULL);
}

/* ---- bad files */

/* Opens a copy of just these bytes; reads all that an accepted file shows. */
static ds_status parse(const void *data, size_t size, ds_error *err) {
  ds_safetensors *s;
  unsigned char *copy = malloc(size ? size : 1);
  if (!copy) return DS_ERR_MEMORY;
  if (size) memcpy(copy, data, size);
  ds_status status = ds_safetensors_parse(copy, size, "bad", &s, err);
  CHECK((status == DS_OK) == (s != NULL));
  static volatile unsigned sum;
  for (size_t i = 0; s && i < ds_safetensors_count(s); i++) {
    const ds_safetensor *t = ds_safetensors_at(s, i);
    for (size_t k = 0; k < t->bytes; k++) sum += t->data[k];
    sum += (unsigned)strlen(t->name) + (unsigned)strlen(t->type);
  }
  ds_safetensors_close(s);
  free(copy);
  return status;
}

static void test_damage(void) {
  const char *path = temp_path("damage.safetensors");
  ds_error err = {0};
  ds_file whole;
  write_examples(path);
  CHECK_OK(ds_file_map(path, &whole, &err), err);
  size_t header = 8 + whole.data[0] + 256u * whole.data[1];
  CHECK(header < whole.size && parse(whole.data, whole.size, &err) == DS_OK);
  for (size_t n = 0; n < whole.size; n++) {
    memset(&err, 0, sizeof err);
    CHECK(parse(whole.data, n, &err) == DS_ERR_FORMAT && err.message[0]);
  }
  unsigned char *copy = malloc(whole.size + 1);
  CHECK(copy != NULL);
  if (!copy) return;
  memcpy(copy, whole.data, whole.size);
  copy[whole.size] = 0;
  CHECK(parse(copy, whole.size + 1, &err) == DS_ERR_FORMAT);
  int refused = 0;
  for (size_t bit = 0; bit < header * 8; bit++) {
    copy[bit / 8] ^= (unsigned char)(1u << bit % 8);
    memset(&err, 0, sizeof err);
    ds_status status = parse(copy, whole.size, &err);
    CHECK(status == DS_OK || err.message[0]);
    refused += status != DS_OK;
    copy[bit / 8] ^= (unsigned char)(1u << bit % 8);
  }
  CHECK(refused > 1000); /* flips in names change names only */
  free(copy);
  ds_file_unmap(&whole);
}

/* A header with `data` bytes of data behind it. */
static ds_status parse_header(const char *json, size_t data, ds_error *err) {
  static unsigned char file[4096];
  size_t n = strlen(json);
  memset(file, 0, sizeof file);
  file[0] = (unsigned char)n;
  file[1] = (unsigned char)(n >> 8);
  memcpy(file + 8, json, n);
  return parse(file, 8 + n + data, err);
}

static void test_headers(void) {
#define T(dtype, shape, offsets)                                                                   \
  "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"
  static const struct {
    const char *json;
    size_t data;
    ds_status status;
    const char *message;
  } cases[] = {
      {"{}", 0, DS_OK, ""},
      {"{\"x\":" T("F32", "2", "0,8") "}", 8, DS_OK, ""},
      {"{\"x\":" T("BOOL", "1,1,2", "0,2") "}   ", 2, DS_OK, ""},
      {"{\"x\":" T("F32", "0,4", "0,0") ",\"y\":" T("U8", "", "0,1") "}", 1, DS_OK, ""},
      {"{\"__metadata__\":{\"a\":\"b\"}}", 0, DS_OK, ""},
      {"{\"__metadata__\":{\"a\":1}}", 0, DS_ERR_FORMAT, "__metadata__"},
      {"{\"__metadata__\":[]}", 0, DS_ERR_FORMAT, "__metadata__"},
      {"[]", 0, DS_ERR_FORMAT, "object"},
      {"{", 0, DS_ERR_FORMAT, "JSON"},
      {"{\"x\":1}", 0, DS_ERR_FORMAT, "must be an object"},
      {"{\"x\":{}}", 0, DS_ERR_FORMAT, "dtype"},
      {"{\"x\":" T("F31", "2", "0,8") "}", 8, DS_ERR_UNSUPPORTED, "F31"},
      {"{\"x\":" T("F32", "-2", "0,8") "}", 8, DS_ERR_FORMAT, "dimension 0"},
      {"{\"x\":" T("F32", "1,0.5", "0,8") "}", 8, DS_ERR_FORMAT, "dimension 1"},
      {"{\"x\":" T("F32", "1e300", "0,8") "}", 8, DS_ERR_FORMAT, "dimension 0"},
      {"{\"x\":" T("F32", "4294967296,4294967296", "0,0") "}", 0, DS_ERR_FORMAT, "dimension 1"},
      {"{\"x\":" T("F32", "1,1,1,1,1,1,1", "0,4") "}", 4, DS_ERR_UNSUPPORTED, "dimensions"},
      {"{\"x\":" T("F32", "2", "0,4") "}", 8, DS_ERR_FORMAT, "make 8 bytes"},
      {"{\"x\":" T("F32", "2", "8,0") "}", 8, DS_ERR_FORMAT, "begin <= end"},
      {"{\"x\":" T("F32", "2", "0,8,8") "}", 8, DS_ERR_FORMAT, "data_offsets"},
      {"{\"x\":" T("F32", "2", "-8,0") "}", 8, DS_ERR_FORMAT, "data_offsets"},
      {"{\"x\":" T("F32", "2", "0,8") "}", 7, DS_ERR_FORMAT, "only 7"},
      {"{\"x\":" T("F32", "2", "0,8") "}", 9, DS_ERR_FORMAT, "after the last tensor"},
      {"{\"x\":" T("F32", "1", "4,8") "}", 8, DS_ERR_FORMAT, "hole"},
      {"{\"x\":" T("F32", "2", "0,8") ",\"y\":" T("F32", "1", "4,8") "}", 8, DS_ERR_FORMAT,
       "overlaps"},
      {"{\"x\":" T("U8", "1", "0,1") ",\"x\":" T("U8", "1", "1,2") "}", 2, DS_ERR_FORMAT, "twice"},
  };
#undef T
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ds_error err = {0};
    if (cases[i].status == DS_OK)
      CHECK_OK(parse_header(cases[i].json, cases[i].data, &err), err);
    else
      CHECK_FAILS(parse_header(cases[i].json, cases[i].data, &err), cases[i].status, err,
                  cases[i].message);
  }
  ds_error err = {0};
  CHECK_FAILS(parse("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, &err), DS_ERR_FORMAT, err, "header");
  ds_safetensors *s;
  CHECK_FAILS(ds_safetensors_open(temp_path("none.safetensors"), &s, &err), DS_ERR_NOT_FOUND, err,
              "none.safetensors");
}

static void test_unreadable_dtype(void) {
  static const char text[] =
      "\x3b\0\0\0\0\0\0\0{\"x\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[0,2]}}     \1";
  ds_safetensors *s;
  ds_error err = {0};
  float out[2];
  CHECK_OK(ds_safetensors_parse(text, 8 + 0x3b + 2, "bool", &s, &err), err);
  if (!s) return;
  CHECK(ds_safetensors_at(s, 0)->dtype == -1);
  CHECK_FAILS(ds_safetensor_read_f32(ds_safetensors_at(s, 0), out, &err), DS_ERR_UNSUPPORTED, err,
              "BOOL");
  ds_safetensors_close(s);
}

/* ---- shards */

static void write_one(const char *path, const char *name, float value) {
  ds_safetensors_writer *w;
  ds_error err = {0};
  CHECK_OK(ds_safetensors_writer_create(path, &w, &err), err);
  CHECK_OK(ds_safetensors_writer_add(w, name, DS_F32, 0, NULL, &err), err);
  CHECK_OK(ds_safetensors_writer_begin(w, &err), err);
  CHECK_OK(ds_safetensors_writer_write(w, &value, sizeof value, &err), err);
  CHECK_OK(ds_safetensors_writer_commit(w, &err), err);
  ds_safetensors_writer_destroy(w);
}

static ds_status open_index(const char *json, ds_safetensors **s, ds_error *err) {
  const char *path = temp_path("m.safetensors.index.json");
  ds_status status = ds_file_write(path, json, strlen(json), err);
  return status == DS_OK ? ds_safetensors_open(path, s, err) : status;
}

static void test_shards(void) {
  ds_error err = {0};
  ds_safetensors *s;
  float value = 0;
  write_one(temp_path("m-1.safetensors"), "b", 1);
  write_one(temp_path("m-2.safetensors"), "a", 2);
  write_one(temp_path("m-3.safetensors"), "a", 3);
  CHECK_OK(open_index("{\"metadata\":{},\"weight_map\":{\"b\":\"m-1.safetensors\","
                      "\"a\":\"m-2.safetensors\"}}",
                      &s, &err),
           err);
  if (s) {
    CHECK(ds_safetensors_count(s) == 2);
    CHECK_OK(ds_safetensor_read_f32(ds_safetensors_find(s, "a"), &value, &err), err);
    CHECK(value == 2);
  }
  ds_safetensors_close(s);
  CHECK_FAILS(open_index("{\"weight_map\":{\"a\":\"m-2.safetensors\",\"b\":\"m-9.safetensors\"}}",
                         &s, &err),
              DS_ERR_NOT_FOUND, err, "m-9.safetensors");
  CHECK_FAILS(open_index("{\"weight_map\":{\"a\":\"m-1.safetensors\"}}", &s, &err), DS_ERR_FORMAT,
              err, "\"a\" is not in m-1");
  CHECK_FAILS(open_index("{\"weight_map\":{\"a\":\"m-2.safetensors\",\"c\":\"m-3.safetensors\"}}",
                         &s, &err),
              DS_ERR_FORMAT, err, "two shards");
  CHECK_FAILS(open_index("{\"weight_map\":{\"a\":\"../m-2.safetensors\"}}", &s, &err),
              DS_ERR_FORMAT, err, "same folder");
  CHECK_FAILS(open_index("{\"weight_map\":{\"a\":3}}", &s, &err), DS_ERR_FORMAT, err, "\"a\"");
  CHECK_FAILS(open_index("{\"weight_map\":{}}", &s, &err), DS_ERR_FORMAT, err, "weight_map");
  CHECK_FAILS(open_index("{}", &s, &err), DS_ERR_FORMAT, err, "weight_map");
}

int main(void) {
  CHECK(temp_folder_create());
  test_round_trip();
  test_long_read();
  test_writer_refusals();
  test_damage();
  test_headers();
  test_unreadable_dtype();
  test_shards();
  temp_folder_destroy();
  return TEST_RESULT();
}
