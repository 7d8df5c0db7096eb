/* offload.h - where own parts are kept that the device has no room for (Ren et al. 2021, ZeRO-Offload;
 * Rajbhandari et al. 2021, ZeRO-Infinity): in host memory, or in a file. Offloaded masters and states
 * are updated on the host; own gradients then lie in host memory too.
 */
#ifndef DS_ZERO_OFFLOAD_H
#define DS_ZERO_OFFLOAD_H

typedef enum ds_offload { DS_OFFLOAD_NONE, DS_OFFLOAD_CPU, DS_OFFLOAD_NVME } ds_offload;

#endif
