/* layout.c - prints where every field of every ABI struct stands, and every published number.
 *
 * The output is compared with layout.txt: append-only means that lines are added, and that none
 * changes but a struct's size. */
#include <stdio.h>

#include "ds_abi.h"

#define STRUCT(type) printf("%s: %zu bytes, aligned %zu\n", #type, sizeof(type), _Alignof(type))
#define FIELD(type, field)                                                                         \
  printf("  %zu %s, %zu bytes\n", offsetof(type, field), #field, sizeof(((type *)0)->field))
#define NUMBER(name) printf("%s %lld\n", #name, (long long)(name))

static void structs(void) {
  STRUCT(ds_error);
  FIELD(ds_error, status);
  FIELD(ds_error, message);
  STRUCT(ds_table);
  FIELD(ds_table, size);
  FIELD(ds_table, major);
  FIELD(ds_table, minor);
  STRUCT(ds_version_range);
  FIELD(ds_version_range, major);
  FIELD(ds_version_range, min_minor);
  FIELD(ds_version_range, max_minor);
  FIELD(ds_version_range, reserved);
  STRUCT(ds_tensor);
  FIELD(ds_tensor, data);
  FIELD(ds_tensor, dtype);
  FIELD(ds_tensor, rank);
  FIELD(ds_tensor, shape);
  FIELD(ds_tensor, stride);
  STRUCT(ds_host);
  FIELD(ds_host, base);
  FIELD(ds_host, ctx);
  FIELD(ds_host, log);
  FIELD(ds_host, alloc);
  FIELD(ds_host, free);
  STRUCT(ds_kv_store);
  FIELD(ds_kv_store, base);
  FIELD(ds_kv_store, ctx);
  FIELD(ds_kv_store, set);
  FIELD(ds_kv_store, get);
  STRUCT(ds_device_info);
  FIELD(ds_device_info, size);
  FIELD(ds_device_info, flags);
  FIELD(ds_device_info, name);
  FIELD(ds_device_info, memory_total);
  FIELD(ds_device_info, memory_free);
  FIELD(ds_device_info, threads);
  FIELD(ds_device_info, reserved);
  STRUCT(ds_device_table);
  FIELD(ds_device_table, base);
  FIELD(ds_device_table, count);
  FIELD(ds_device_table, open);
  FIELD(ds_device_table, close);
  FIELD(ds_device_table, info);
  FIELD(ds_device_table, alloc);
  FIELD(ds_device_table, free);
  FIELD(ds_device_table, stream_create);
  FIELD(ds_device_table, stream_destroy);
  FIELD(ds_device_table, stream_sync);
  FIELD(ds_device_table, upload);
  FIELD(ds_device_table, download);
  FIELD(ds_device_table, copy);
  FIELD(ds_device_table, fill);
  FIELD(ds_device_table, event_create);
  FIELD(ds_device_table, event_destroy);
  FIELD(ds_device_table, event_record);
  FIELD(ds_device_table, event_wait);
  FIELD(ds_device_table, event_sync);
  STRUCT(ds_gemm);
  FIELD(ds_gemm, size);
  FIELD(ds_gemm, flags);
  FIELD(ds_gemm, m);
  FIELD(ds_gemm, n);
  FIELD(ds_gemm, k);
  FIELD(ds_gemm, lda);
  FIELD(ds_gemm, ldb);
  FIELD(ds_gemm, ldc);
  FIELD(ds_gemm, batch);
  FIELD(ds_gemm, stride_a);
  FIELD(ds_gemm, stride_b);
  FIELD(ds_gemm, stride_c);
  FIELD(ds_gemm, dtype_a);
  FIELD(ds_gemm, dtype_b);
  FIELD(ds_gemm, dtype_c);
  FIELD(ds_gemm, dtype_bias);
  FIELD(ds_gemm, epilogue);
  FIELD(ds_gemm, alpha);
  FIELD(ds_gemm, beta);
  FIELD(ds_gemm, reserved);
  FIELD(ds_gemm, a);
  FIELD(ds_gemm, b);
  FIELD(ds_gemm, bias);
  FIELD(ds_gemm, c);
  STRUCT(ds_gemm_table);
  FIELD(ds_gemm_table, base);
  FIELD(ds_gemm_table, supports);
  FIELD(ds_gemm_table, run);
  FIELD(ds_gemm_table, pack_size);
  FIELD(ds_gemm_table, pack_b);
  STRUCT(ds_quant);
  FIELD(ds_quant, size);
  FIELD(ds_quant, qtype);
  FIELD(ds_quant, dtype);
  FIELD(ds_quant, reserved);
  FIELD(ds_quant, rows);
  FIELD(ds_quant, cols);
  FIELD(ds_quant, group);
  STRUCT(ds_quant_table);
  FIELD(ds_quant_table, base);
  FIELD(ds_quant_table, supports);
  FIELD(ds_quant_table, quantize);
  FIELD(ds_quant_table, dequantize);
  FIELD(ds_quant_table, gemm);
  STRUCT(ds_comm_world);
  FIELD(ds_comm_world, size);
  FIELD(ds_comm_world, rank);
  FIELD(ds_comm_world, world_size);
  FIELD(ds_comm_world, local_rank);
  FIELD(ds_comm_world, local_size);
  STRUCT(ds_comm_table);
  FIELD(ds_comm_table, base);
  FIELD(ds_comm_table, world);
  FIELD(ds_comm_table, create);
  FIELD(ds_comm_table, destroy);
  FIELD(ds_comm_table, allreduce);
  FIELD(ds_comm_table, reduce_scatter);
  FIELD(ds_comm_table, allgather);
  FIELD(ds_comm_table, broadcast);
  FIELD(ds_comm_table, barrier);
  FIELD(ds_comm_table, send);
  FIELD(ds_comm_table, recv);
  FIELD(ds_comm_table, alltoall);
  STRUCT(ds_op);
  FIELD(ds_op, size);
  FIELD(ds_op, id);
  FIELD(ds_op, n_in);
  FIELD(ds_op, n_out);
  FIELD(ds_op, n_attr);
  FIELD(ds_op, accumulate);
  FIELD(ds_op, in);
  FIELD(ds_op, out);
  FIELD(ds_op, attr);
  FIELD(ds_op, workspace);
  FIELD(ds_op, workspace_size);
  STRUCT(ds_ops_table);
  FIELD(ds_ops_table, base);
  FIELD(ds_ops_table, supports);
  FIELD(ds_ops_table, workspace);
  FIELD(ds_ops_table, run);
  STRUCT(ds_graph_table);
  FIELD(ds_graph_table, base);
  FIELD(ds_graph_table, begin);
  FIELD(ds_graph_table, end);
  FIELD(ds_graph_table, launch);
  FIELD(ds_graph_table, destroy);
  STRUCT(ds_plugin);
  FIELD(ds_plugin, base);
  FIELD(ds_plugin, name);
  FIELD(ds_plugin, version);
  FIELD(ds_plugin, description);
  FIELD(ds_plugin, device);
  FIELD(ds_plugin, gemm);
  FIELD(ds_plugin, quant);
  FIELD(ds_plugin, comm);
  FIELD(ds_plugin, ops);
  FIELD(ds_plugin, graph);
  STRUCT(ds_note);
  FIELD(ds_note, size);
  FIELD(ds_note, abi);
  FIELD(ds_note, priority);
  FIELD(ds_note, name);
  FIELD(ds_note, version);
  FIELD(ds_note, needs);
  STRUCT(ds_note_section);
  FIELD(ds_note_section, namesz);
  FIELD(ds_note_section, descsz);
  FIELD(ds_note_section, type);
  FIELD(ds_note_section, name);
  FIELD(ds_note_section, desc);
  STRUCT(ds_attr);
}

static void numbers(void) {
  NUMBER(DS_MAX_RANK);
  NUMBER(DS_ERROR_MESSAGE_MAX);
  NUMBER(DS_NOTE_TYPE);
  NUMBER(DS_OK);
  NUMBER(DS_ERR_INVALID);
  NUMBER(DS_ERR_UNSUPPORTED);
  NUMBER(DS_ERR_MEMORY);
  NUMBER(DS_ERR_IO);
  NUMBER(DS_ERR_FORMAT);
  NUMBER(DS_ERR_NOT_FOUND);
  NUMBER(DS_ERR_VERSION);
  NUMBER(DS_ERR_DEVICE);
  NUMBER(DS_ERR_TIMEOUT);
  NUMBER(DS_ERR_NUMERIC);
  NUMBER(DS_ERR_STATE);
  NUMBER(DS_ERR_END);
  NUMBER(DS_ERR_INTERNAL);
  NUMBER(DS_F32);
  NUMBER(DS_BF16);
  NUMBER(DS_F16);
  NUMBER(DS_F64);
  NUMBER(DS_I32);
  NUMBER(DS_I64);
  NUMBER(DS_I8);
  NUMBER(DS_U8);
  NUMBER(DS_I4);
  NUMBER(DS_F8E4M3);
  NUMBER(DS_F8E5M2);
  NUMBER(DS_LOG_DEBUG);
  NUMBER(DS_LOG_INFO);
  NUMBER(DS_LOG_WARN);
  NUMBER(DS_LOG_ERROR);
  NUMBER(DS_DEVICE_HOST_ACCESSIBLE);
  NUMBER(DS_DEVICE_SYNCHRONOUS);
  NUMBER(DS_GEMM_TRANS_A);
  NUMBER(DS_GEMM_TRANS_B);
  NUMBER(DS_GEMM_PACKED_B);
  NUMBER(DS_EPILOGUE_NONE);
  NUMBER(DS_EPILOGUE_GELU_TANH);
  NUMBER(DS_EPILOGUE_GELU_ERF);
  NUMBER(DS_EPILOGUE_RELU);
  NUMBER(DS_EPILOGUE_SILU);
  NUMBER(DS_REDUCE_SUM);
  NUMBER(DS_REDUCE_MEAN);
  NUMBER(DS_REDUCE_MAX);
  NUMBER(DS_REDUCE_MIN);
  NUMBER(DS_ACTIVATION_GELU_TANH);
  NUMBER(DS_ACTIVATION_GELU_ERF);
  NUMBER(DS_ACTIVATION_RELU);
  NUMBER(DS_ACTIVATION_SILU);
  NUMBER(DS_ACTIVATION_TANH);
  NUMBER(DS_ACTIVATION_SIGMOID);
#define DS_OP(id, upper, lower, n_in, n_out, n_attr)                                               \
  printf("DS_OP_%s %d: %s, %d in, %d out, %d attributes\n", #upper, id, #lower, n_in, n_out,       \
         n_attr);
#include "ds_ops.def"
#undef DS_OP
}

int main(void) {
  structs();
  numbers();
  return 0;
}
