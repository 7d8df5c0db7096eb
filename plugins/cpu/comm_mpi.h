/* comm_mpi.h - Open MPI, found at run time.
 *
 * The plugin links nothing of MPI: libmpi is opened at first need, so that the plugin loads on
 * machines without it. MPI is one per process, and so is its state here (under a lock).
 *
 *   Start     Only if a launcher (mpirun, or srun with PMIx) started this process, or if the host
 *             initialized MPI before. If the host did, MPI stays the host's to finalize.
 *   End       What we started is finalized when the process exits with code 0. With another code
 *             it is not: the launcher then ends the other ranks, who would wait for ever.
 *   Threads   MPI_THREAD_MULTIPLE where the library gives it. Where it gives less (or the host
 * asked for less), calls are bound by what it gives. Time      MPI knows no time limits: a call
 * waits until its peers come, or until the launcher ends the job because one of them died.
 *
 * One call moves at most INT_MAX units; comm.c cuts. All return DS_ERR_DEVICE with MPI's message
 * when MPI fails.
 */
#ifndef DS_CPU_COMM_MPI_H
#define DS_CPU_COMM_MPI_H

#include "cpu.h"

typedef struct ds_cpu_mpi_group ds_cpu_mpi_group; /* a communicator of 2 and more */

/* [any-thread] 0 of 1 where nobody launched us. DS_ERR_UNSUPPORTED: launched as several ranks, but
 * this build or this machine has no MPI. out->size is left alone. */
ds_status ds_cpu_mpi_world(ds_comm_world *out, ds_error *err);

/* Collective over the members. ranks: of the world, each once, the caller among them. */
ds_status ds_cpu_mpi_create(const int32_t *ranks, int32_t count, ds_cpu_mpi_group **out,
                            ds_error *err);
void ds_cpu_mpi_destroy(ds_cpu_mpi_group *g);

/* dtype: DS_F32, DS_F64, DS_I32, DS_I64. op: not DS_REDUCE_MEAN. allreduce is in place. */
ds_status ds_cpu_mpi_allreduce(ds_cpu_mpi_group *g, void *buffer, int count, int32_t dtype,
                               ds_reduce op, ds_error *err);
/* recv[count] from the caller's part of send[size * count]. */
ds_status ds_cpu_mpi_reduce_scatter(ds_cpu_mpi_group *g, const void *send, void *recv, int count,
                                    int32_t dtype, ds_reduce op, ds_error *err);

/* Movement is in bytes. */
ds_status ds_cpu_mpi_allgather(ds_cpu_mpi_group *g, const void *send, void *recv, int bytes,
                               bool in_place, ds_error *err);
ds_status ds_cpu_mpi_alltoall(ds_cpu_mpi_group *g, const void *send, void *recv, int bytes,
                              ds_error *err);
ds_status ds_cpu_mpi_broadcast(ds_cpu_mpi_group *g, void *buffer, int bytes, int root,
                               ds_error *err);
ds_status ds_cpu_mpi_send(ds_cpu_mpi_group *g, const void *buffer, int bytes, int peer,
                          ds_error *err);
ds_status ds_cpu_mpi_recv(ds_cpu_mpi_group *g, void *buffer, int bytes, int peer, ds_error *err);
ds_status ds_cpu_mpi_sendrecv(ds_cpu_mpi_group *g, const void *send, int to, void *recv, int from,
                              int bytes, ds_error *err);
ds_status ds_cpu_mpi_barrier(ds_cpu_mpi_group *g, ds_error *err);

#endif
