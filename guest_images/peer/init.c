// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * PID 1 of an L1 in which somebody else's program asks KVM for steps, a peer: it
 * runs the program that /arguments names, with the arguments that follow (one a
 * line), says how that ended and powers the machine off. It begins when all
 * files that /devices names are there. While it waits, it may wake up at random
 * moments: /wakeups holds the mean interval in ns and a seed, neither of them 0,
 * or nothing.
 * On the console, beside what the peer itself prints:
 *   peer: kernel LINE       what the kernel said of KVM when it booted
 *   peer: begin             the peer's own output starts here
 *   peer: exit STATUS NS    its exit status, or minus the signal that ended it;
 *                           ns of virtual time from fork to end
 *   peer: failed: REASON    there was nothing to run
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S		1000000000ll
#define ARGUMENTS_MAX		64
#define DEVICES_NS		(10 * NS_PER_S)
#define KLOG_READ_ALL		3	/* SYSLOG_ACTION_READ_ALL, syslog(2) */
#define EXEC_FAILED		127	/* as in a shell */

static char klog[1 << 17];

static void power_off(void)
{
	fflush(stdout);
	reboot(RB_POWER_OFF);
	_exit(1);	/* PID 1 must not get here: the kernel panics, which the host sees */
}

static void fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	printf("peer: failed: ");
	vprintf(format, arguments);
	printf("\n");
	va_end(arguments);
	power_off();
}

static void mount_at(const char *type, const char *path)
{
	mkdir(path, 0755);
	/* EBUSY: the kernel mounted devtmpfs itself (CONFIG_DEVTMPFS_MOUNT). */
	if (mount(type, path, type, 0, NULL) && errno != EBUSY)
		fail("mounting %s on %s: %s", type, path, strerror(errno));
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* An absent file is an empty one. */
static void read_text(const char *path, char *text, size_t size)
{
	ssize_t length = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		length = read(fd, text, size - 1);
		close(fd);
	} else if (errno != ENOENT) {
		fail("%s: %s", path, strerror(errno));
	}
	text[length > 0 ? length : 0] = '\0';
}

/* Which mode KVM came up in is told here only, and below the console's log level. */
static void show_kvm_messages(void)
{
	int length = klogctl(KLOG_READ_ALL, klog, sizeof(klog) - 1);
	char *line, *rest = klog;

	klog[length > 0 ? length : 0] = '\0';
	while ((line = strsep(&rest, "\n")))
		if (strstr(line, "kvm ["))
			printf("peer: kernel %s\n", strstr(line, "kvm ["));
}

static void split_arguments(char *text, char **argv)
{
	char *line;
	int count = 0;

	while ((line = strsep(&text, "\n")))
		if (*line && count < ARGUMENTS_MAX)
			argv[count++] = line;
	argv[count] = NULL;
	if (!count)
		fail("/arguments names no program");
}

/* Ports of a virtio-serial device come some time after the device. */
static void wait_for_devices(char *text)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	int64_t begun = now_ns();
	char *path;

	while ((path = strsep(&text, "\n"))) {
		while (*path && access(path, F_OK)) {
			if (now_ns() - begun > DEVICES_NS)
				fail("%s: %s", path, strerror(errno));
			nanosleep(&pause, NULL);
		}
	}
}

static pid_t start(char **argv)
{
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child < 0)
		fail("fork: %s", strerror(errno));
	if (child)
		return child;
	execv(argv[0], argv);
	fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
	_exit(EXEC_FAILED);
}

/* Marsaglia, "Xorshift RNGs" (2003): the same seed, the same wakeups. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/*
 * Wake up again and again until the child has ended: each wakeup is a timer
 * interrupt under the stepped guest, which the tick alone, 10 ms of virtual time
 * apart, gives far too seldom. The intervals are random, @mean_ns on average: a
 * guest that steps in a loop falls into step with a fixed one, and then all
 * interrupts come at the same few instructions.
 */
static pid_t wake_until_end(pid_t child, int *status, int64_t mean_ns, uint64_t seed)
{
	/* Else the scheduler, in its fairness, lets it wait for a tick: the next one comes late. */
	const struct sched_param first = { .sched_priority = 1 };
	int64_t wake = now_ns();
	pid_t ended;

	if (sched_setscheduler(0, SCHED_FIFO, &first))
		fail("SCHED_FIFO: %s", strerror(errno));
	while (!(ended = waitpid(child, status, WNOHANG))) {
		struct timespec until;

		wake += mean_ns / 2 + next_random(&seed) % mean_ns;
		/* Virtual time leaps where L1 is idle: what was missed is not made up for. */
		if (wake < now_ns())
			wake = now_ns() + mean_ns / 2;
		until.tv_sec = wake / NS_PER_S;
		until.tv_nsec = wake % NS_PER_S;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	}
	return ended;
}

static int wait_for(pid_t child, const char *wakeups)
{
	unsigned long long mean_ns, seed;
	int status;
	pid_t ended;

	if (sscanf(wakeups, "%llu %llu", &mean_ns, &seed) == 2 && mean_ns && seed)
		ended = wake_until_end(child, &status, mean_ns, seed);
	else
		ended = waitpid(child, &status, 0);
	if (ended < 0)
		fail("waitpid: %s", strerror(errno));
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

int main(void)
{
	char text[4096], devices[512], wakeups[64], *argv[ARGUMENTS_MAX + 1];
	int64_t started;
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	mount_at("devtmpfs", "/dev");
	mount_at("proc", "/proc");
	mount_at("sysfs", "/sys");
	/* The default slack of 50 us would move each wakeup by as much (prctl(2)). */
	if (prctl(PR_SET_TIMERSLACK, 1))
		fail("PR_SET_TIMERSLACK: %s", strerror(errno));
	show_kvm_messages();
	read_text("/devices", devices, sizeof(devices));
	wait_for_devices(devices);
	read_text("/arguments", text, sizeof(text));
	read_text("/wakeups", wakeups, sizeof(wakeups));
	split_arguments(text, argv);
	printf("peer: begin\n");
	started = now_ns();
	status = wait_for(start(argv), wakeups);
	printf("peer: exit %d %lld\n", status, (long long)(now_ns() - started));
	power_off();
}
