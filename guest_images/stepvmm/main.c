// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * PID 1 of L1: a minimal KVM VMM that runs one job and powers the machine off.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "job.h"
#include "shared.h"

static void mount_at(const char *type, const char *path)
{
	mkdir(path, 0755);
	/* EBUSY: the kernel mounted devtmpfs itself (CONFIG_DEVTMPFS_MOUNT). */
	if (mount(type, path, type, 0, NULL) && errno != EBUSY)
		end(STATE_FAILED, "mounting %s on %s: %s", type, path, strerror(errno));
}

int main(void)
{
	struct job job;

	setvbuf(stdout, NULL, _IOLBF, 0);
	mount_at("sysfs", "/sys");
	mount_at("devtmpfs", "/dev");
	mount_at("proc", "/proc");
	shared_open();
	/* The default slack of 50 us would move a placement by as much (prctl(2)). */
	if (prctl(PR_SET_TIMERSLACK, 1))
		end(STATE_FAILED, "PR_SET_TIMERSLACK: %s", strerror(errno));
	job_load(&job);
	job_run(&job);
	end(STATE_DONE, "done");
}
