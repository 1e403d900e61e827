// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE	/* gettid() */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "shared.h"
#include "timer.h"
#include "vm.h"

#define NS_PER_S	1000000000ull

void timer_create_both(struct timer *timer)
{
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = SIGUSR2,
		._sigev_un._tid = gettid(),
	};

	timer->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (timer->fd < 0)
		end(STATE_FAILED, "timerfd_create: %s", strerror(errno));
	vm_interruptible_by(SIGUSR2);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer->signal))
		end(STATE_FAILED, "timer_create: %s", strerror(errno));
}

void timer_sweep(struct timer *timer, const struct operation *operation)
{
	timer->mode = TIMER_SWEEP;
	timer->kind = operation->kind;
	timer->first = operation->a;
	timer->stride = operation->b;
}

void timer_table(struct timer *timer, const struct operation *operation, const uint32_t *first)
{
	timer->mode = TIMER_TABLE;
	timer->kind = operation->kind;
	timer->next = first;
	timer->left = operation->n;
}

uint64_t timer_next_delay(struct timer *timer, uint64_t iteration)
{
	switch (timer->mode) {
	case TIMER_SWEEP:
		return timer->first + timer->stride * iteration;
	case TIMER_TABLE:
		if (!timer->left)
			return 0;
		timer->left--;
		return *timer->next++;
	default:
		return 0;
	}
}

void timer_set(const struct timer *timer, uint64_t delay)
{
	struct itimerspec one_shot = {
		.it_value = { .tv_sec = delay / NS_PER_S, .tv_nsec = delay % NS_PER_S },
	};
	int failed = timer->kind == TIMER_SIGNAL
			     ? timer_settime(timer->signal, 0, &one_shot, NULL)
			     : timerfd_settime(timer->fd, 0, &one_shot, NULL);

	if (failed)
		end(STATE_FAILED, "a timer of %llu ns: %s", (unsigned long long)delay,
		    strerror(errno));
}

static int signal_timer_fired(const struct timer *timer)
{
	struct itimerspec left;

	if (timer_gettime(timer->signal, &left))
		end(STATE_FAILED, "timer_gettime: %s", strerror(errno));
	return !left.it_value.tv_sec && !left.it_value.tv_nsec;
}

int timer_fired(const struct timer *timer)
{
	uint64_t expirations;

	if (timer->kind == TIMER_SIGNAL)
		return signal_timer_fired(timer);
	if (read(timer->fd, &expirations, sizeof(expirations)) == sizeof(expirations))
		return 1;
	if (errno != EAGAIN)
		end(STATE_FAILED, "reading the timerfd: %s", strerror(errno));
	return 0;
}
