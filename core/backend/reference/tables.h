/* tables.h - the tables of the reference backend, gathered by reference.c.
 *
 * Each stands in the file it is named after. Private to core/backend/reference/.
 */
#ifndef DS_BACKEND_REFERENCE_TABLES_H
#define DS_BACKEND_REFERENCE_TABLES_H

#include "ds_abi.h"

#define DS_REFERENCE_TABLE(type)                                                                   \
  { sizeof(type), DS_ABI_MAJOR, DS_ABI_MINOR }

extern const ds_device_table ds_reference_device;
extern const ds_gemm_table ds_reference_gemm;
extern const ds_quant_table ds_reference_quant;
extern const ds_comm_table ds_reference_comm;
extern const ds_ops_table ds_reference_ops;

#endif
