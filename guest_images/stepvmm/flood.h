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

/*
 * The vCPU's thread is the caller, on header->cpu; timers fire, and the thread
 * runs, on CPU 0. With icount QEMU runs one CPU after another, and goes on with
 * the first when a timer has fired (accel/tcg/tcg-accel-ops-rr.c): from CPU 0 an
 * interrupt comes at once, from a later one much later.
 */
void flood_start(struct vm *vm, const struct job_header *header);

/* Arms one timer for each. Returns CNTVCT_EL0 that the delays count from. */
uint64_t flood_arm(const struct placement *shots, int count);

/* Whether the first has fired since this was asked before; *acted_at: when the thread acted. */
int flood_fired(uint64_t *acted_at);

/* Whether there is one that has not fired. */
int flood_pending(void);

/* Disarms what has not fired. */
void flood_disarm(void);

/* From now on each period_ns; 0: no longer. */
void flood_periodic(enum timer_kind kind, uint64_t period_ns);

/* That period, or 0; *since: CNTVCT_EL0 that it counts from. */
uint64_t flood_period(uint64_t *since);

/* From when this returns until the other is called nothing is sent. */
void flood_pause(void);
void flood_resume(void);

struct flood_sent flood_sent(enum timer_kind kind);

/* What L2's handler has counted, or NULL where there is none. */
const struct guest_counters *flood_counters(void);

#endif
