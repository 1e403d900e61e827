// SPDX-License-Identifier: GPL-2.0-or-later
#include <limits.h>

#include "timer.h"

struct grid timer_grid(const struct operation *operation)
{
	uint64_t size = operation->b >> 32;

	return (struct grid){
		.first = operation->a,
		.stride = operation->b & UINT32_MAX,
		.size = size ? size : ULONG_MAX,
		.hold = operation->n ? operation->n : 1,
	};
}

static uint32_t delay_of(const struct grid *grid, uint64_t iteration)
{
	return grid->first + grid->stride * (iteration / grid->hold % grid->size);
}

static int from_grids(const struct timer *timer, uint64_t iteration, struct placement *shots)
{
	int count = 0;

	shots[count++] = (struct placement){ delay_of(&timer->grid, iteration), timer->kind };
	if (timer->second.first)
		shots[count++] = (struct placement){ delay_of(&timer->second, iteration),
						     timer->kind };
	return count;
}

static int from_table(struct timer *timer, struct placement *shots)
{
	if (!timer->left)
		return 0;
	timer->left--;
	shots[0] = *timer->next++;
	return 1;
}

int timer_next(struct timer *timer, uint64_t iteration, struct placement shots[MOST_SHOTS])
{
	int count = 0;

	if (timer->mode == TIMER_SWEEP)
		count = from_grids(timer, iteration, shots);
	else if (timer->mode == TIMER_TABLE)
		count = from_table(timer, shots);
	if (!count || !shots[0].delay)
		return 0;
	for (uint32_t i = 0; i < timer->burst && count < MOST_SHOTS; i++, count++)
		shots[count] = (struct placement){ shots[0].delay + (i + 1) * timer->spacing,
						   shots[0].kind };
	return count;
}
