/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_FLOOD_H
#define STEPVMM_FLOOD_H

#include <stdint.h>
#include <step_abi.h>

#include "timer.h"
#include "vm.h"

/*
 * Timers, and what they do when they fire. What a timer's interrupt alone does
 * not do, a thread does that waits for it: at a higher priority than the vCPU's,
 * so that it preempts L2 at once, or on a CPU of its own.
 */
struct flood_sent {
	uint64_t sent;
	uint64_t held_back;	/* the one before was not handled yet: they would be one */
};

/* from_cpu: the CPU of L1 whose timers fire, and on which the thread runs. */
void flood_start(struct vm *vm, const struct job_header *header);

/* Arms one timer for each; armed_at: CNTVCT_EL0 that the delays count from. */
void flood_arm(const struct placement *shots, int count, uint64_t armed_at);

/* Disarms what has not fired. Returns whether the first has; *acted_at: when the thread acted. */
int flood_disarm(uint64_t *acted_at);

/* From now on each period_ns; 0: no longer. */
void flood_periodic(enum timer_kind kind, uint64_t period_ns);

/* L2's handler asks for its line to be lowered. */
void flood_acknowledge(uint32_t intid);

struct flood_sent flood_sent(enum timer_kind kind);

/* What L2's handler has counted, or NULL where there is none. */
const struct guest_counters *flood_counters(void);

#endif
