/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_TIMER_H
#define STEPVMM_TIMER_H

#include <stdint.h>
#include <step_abi.h>

#define MOST_SHOTS	8

enum timer_mode { TIMER_OFF, TIMER_SWEEP, TIMER_TABLE };

/*
 * Delays over the passes: first + stride * (iteration / hold % size). One grid
 * goes through all of another's delays for each of its own.
 */
struct grid {
	uint64_t first, stride, size, hold;
};

/* The placements of a flood: what comes before each step. */
struct timer {
	enum timer_mode mode;
	enum timer_kind kind;		/* TIMER_SWEEP */
	struct grid grid, second;	/* TIMER_SWEEP; a first delay of 0 is none */
	const struct placement *next;	/* TIMER_TABLE */
	uint32_t left;
	uint32_t burst;			/* placements that follow each one ... */
	uint64_t spacing;		/* ... so many ns apart */
};

/* OP_TIMER_SWEEP and OP_TIMER_SECOND: a first, b stride and, above 32 bits, size; n hold. */
struct grid timer_grid(const struct operation *operation);

/* The placements of the next step. Returns how many there are. */
int timer_next(struct timer *timer, uint64_t iteration, struct placement shots[MOST_SHOTS]);

#endif
