/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_TIMER_H
#define STEPVMM_TIMER_H

#include <stdint.h>
#include <step_abi.h>
#include <time.h>

enum timer_mode { TIMER_OFF, TIMER_SWEEP, TIMER_TABLE };

/* The flood: one shot of L1's timer before each step. */
struct timer {
	enum timer_mode mode;
	enum timer_kind kind;
	int fd;				/* TIMER_INTERRUPT: a timerfd */
	timer_t signal;			/* TIMER_SIGNAL */
	uint64_t first, stride;		/* TIMER_SWEEP, ns */
	const uint32_t *next;		/* TIMER_TABLE */
	uint32_t left;
};

void timer_create_both(struct timer *timer);

/* From now on: OP_TIMER_SWEEP, and OP_TIMER_TABLE with its first delay. */
void timer_sweep(struct timer *timer, const struct operation *operation);
void timer_table(struct timer *timer, const struct operation *operation, const uint32_t *first);

/* The delay of the next step, ns; 0: none. */
uint64_t timer_next_delay(struct timer *timer, uint64_t iteration);

/* Arms the timer; 0 disarms it. */
void timer_set(const struct timer *timer, uint64_t delay);

/* Whether it has expired since it was armed. */
int timer_fired(const struct timer *timer);

#endif
