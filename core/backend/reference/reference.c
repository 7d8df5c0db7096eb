/* reference.c - the plugin struct and note of the reference backend. */
#include "backend/reference/reference.h"

#include "backend/reference/tables.h"

#define NAME    "reference"
#define VERSION "0.1.0"

const ds_plugin *ds_reference_plugin(void) {
  static const ds_plugin plugin = {
      .base = DS_REFERENCE_TABLE(ds_plugin),
      .name = NAME,
      .version = VERSION,
      .description =
          "scalar C built into core: the oracle, and the fallback of every other backend",
      .device = &ds_reference_device,
      .gemm = &ds_reference_gemm,
      .quant = &ds_reference_quant,
      .comm = &ds_reference_comm,
      .ops = &ds_reference_ops,
      .graph = NULL,
  };
  return &plugin;
}

const ds_note *ds_reference_note(void) {
  static const ds_note note = {
      .size = sizeof(ds_note),
      .abi = {DS_ABI_MAJOR, DS_ABI_MINOR, DS_ABI_MINOR, 0},
      .priority = 0,
      .name = NAME,
      .version = VERSION,
      .needs = "",
  };
  return &note;
}
