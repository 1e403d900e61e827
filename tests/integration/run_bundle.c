// SPDX-License-Identifier: GPL-2.0-only
/* PID 1 of L1: what the QEMU beside it says of itself, and whether it gets a machine from KVM. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define QEMU "/usr/bin/qemu-system-aarch64"

static int run(char *const argv[], const char *input)
{
	int status = -1;
	int ends[2];
	pid_t child;

	/* The input fits into the pipe: nobody has to write while the child runs. */
	if (pipe(ends) || write(ends[1], input, strlen(input)) < 0)
		return -1;
	close(ends[1]);
	child = fork();
	if (child == 0) {
		dup2(ends[0], STDIN_FILENO);
		execv(argv[0], argv);
		fprintf(stderr, "init: %s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	close(ends[0]);
	if (child < 0 || waitpid(child, &status, 0) < 0)
		return -1;
	return status;
}

int main(void)
{
	char *version[] = { QEMU, "--version", NULL };
	char *accelerators[] = { QEMU, "-accel", "help", NULL };
	char *machine[] = { QEMU, "-M", "virt,gic-version=3", "-accel", "kvm", "-cpu", "host",
			    "-m", "16", "-nodefaults", "-display", "none", "-monitor", "stdio",
			    "-device", "virtio-serial-pci", "-S", NULL };

	mkdir("/dev", 0755);
	if (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL))
		fprintf(stderr, "init: /dev: %s\n", strerror(errno));
	printf("init: version %d\n", run(version, ""));
	printf("init: accelerators %d\n", run(accelerators, ""));
	printf("init: machine %d\n", run(machine, "info kvm\nquit\n"));
	fflush(stdout);
	reboot(RB_POWER_OFF);
	return 1;
}
