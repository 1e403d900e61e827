/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_SHARED_H
#define STEPVMM_SHARED_H

#include <step_abi.h>

/* Finds the ivshmem region among the PCI devices, maps it, writes its header. */
void shared_open(void);

/* The next free record, numbered and zeroed; a scratch record once the region is full. */
struct step_record *shared_record(enum record_kind kind);

/*
 * Touches the record that comes so many after the next: the first write to a page
 * of the region faults (QEMU 7.2 has no FEAT_HAFDBS, so L1 tracks dirty pages by
 * faults), which must not be in the midst of a step.
 */
void shared_touch(uint64_t ahead);

void shared_heartbeat(void);

/* How many times KVM_RUN has returned. */
uint64_t shared_progress(void);

/* Seals the records and says how the job ended. */
void shared_close(enum shared_state state, const char *message);

/* Ends L1: the message goes to the shared region and to the console. */
_Noreturn void end(enum shared_state state, const char *format, ...)
	__attribute__((cold, format(printf, 2, 3)));

#endif
