#include "parallel/topology.h"

#include "test.h"

/* Every rank has a place of its own, and the axes are those of the header's formula. */
static void test_places(int tensor, int sequence, int pipe, int data) {
  ds_topology t;
  ds_error err;
  int world = tensor * sequence * pipe * data;
  for (int r = 0; r < world; r++) {
    CHECK_OK(ds_topology_place(&t, r, world, tensor, sequence, pipe, &err), err);
    CHECK(((t.pipe.rank * data + t.data.rank) * sequence + t.sequence.rank) * tensor +
              t.tensor.rank ==
          r);
    CHECK(t.tensor.size == tensor && t.sequence.size == sequence && t.pipe.size == pipe &&
          t.data.size == data);
    CHECK(t.zero.size == data * sequence &&
          t.zero.rank == t.data.rank * sequence + t.sequence.rank);
    CHECK(t.model.size == pipe * tensor && t.model.rank == t.pipe.rank * tensor + t.tensor.rank);
    CHECK(!t.zero.group && !t.tensor.group);
  }
}

int main(void) {
  ds_topology t;
  ds_error err;
  test_places(1, 1, 1, 1);
  test_places(2, 1, 1, 3);
  test_places(2, 3, 4, 5);
  test_places(1, 4, 2, 1);
  CHECK_FAILS(ds_topology_place(&t, 0, 6, 4, 1, 1, &err), DS_ERR_INVALID, err,
              "tensor parallel 4 x sequence parallel 1 x pipeline 1");
  return test_result();
}
