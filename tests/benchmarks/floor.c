// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * PID 1 of L1: the least that stepping takes. KVM_RUN and KVM_GET_ONE_REG(PC) for each step, and
 * nothing else but the return to the payload's entry at its end; and PSTATE, where the job asks for
 * it. The console says when the first steps, which translate L1's code, are done, and when all are:
 * the host looks at its own clocks.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#define CORE(member)	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | \
			 KVM_REG_ARM_CORE_REG(member))
#define EL1H_MASKED	0x3c5		/* EL1h with D, A, I and F masked */
#define DISTRIBUTOR	0x08000000ull
#define REDISTRIBUTOR	0x080a0000ull

static int vm, vcpu;
static struct kvm_run *run;

static int checked(int result, const char *what)
{
	if (result >= 0)
		return result;
	perror(what);
	reboot(RB_POWER_OFF);
	exit(1);
}

static uint64_t get_register(uint64_t id)
{
	uint64_t value;
	struct kvm_one_reg request = { .id = id, .addr = (uintptr_t)&value };

	checked(ioctl(vcpu, KVM_GET_ONE_REG, &request), "KVM_GET_ONE_REG");
	return value;
}

static void set_register(uint64_t id, uint64_t value)
{
	struct kvm_one_reg request = { .id = id, .addr = (uintptr_t)&value };

	checked(ioctl(vcpu, KVM_SET_ONE_REG, &request), "KVM_SET_ONE_REG");
}

static void set_vgic(int vgic, uint32_t group, uint64_t attribute, uint64_t address)
{
	struct kvm_device_attr request = {
		.group = group,
		.attr = attribute,
		.addr = (uintptr_t)&address,
	};

	checked(ioctl(vgic, KVM_SET_DEVICE_ATTR, &request), "KVM_SET_DEVICE_ATTR");
}

static void load_payload(uint64_t address, size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = address,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)memory,
	};
	int payload = checked(open("/payload", O_RDONLY), "/payload");

	checked(read(payload, memory, bytes), "/payload");
	__builtin___clear_cache(memory, (char *)memory + bytes);
	checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

static void create_vcpu(int kvm)
{
	struct kvm_create_device vgic = { .type = KVM_DEV_TYPE_ARM_VGIC_V3 };
	struct kvm_vcpu_init init;
	int bytes;

	checked(ioctl(vm, KVM_CREATE_DEVICE, &vgic), "KVM_CREATE_DEVICE");
	vcpu = checked(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	checked(ioctl(vm, KVM_ARM_PREFERRED_TARGET, &init), "KVM_ARM_PREFERRED_TARGET");
	init.features[0] |= 1u << KVM_ARM_VCPU_PSCI_0_2;
	checked(ioctl(vcpu, KVM_ARM_VCPU_INIT, &init), "KVM_ARM_VCPU_INIT");
	bytes = checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
	run = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	set_vgic(vgic.fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, DISTRIBUTOR);
	set_vgic(vgic.fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, REDISTRIBUTOR);
	set_vgic(vgic.fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0);
}

static void step(uint64_t entry, uint64_t end, long steps, int reads_pstate)
{
	uint64_t pc = end;

	for (; steps; steps--) {
		if (pc == end)
			set_register(CORE(regs.pc), entry);
		checked(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
		if (run->exit_reason != KVM_EXIT_DEBUG)
			checked(-1, "another exit than KVM_EXIT_DEBUG");
		pc = get_register(CORE(regs.pc));
		if (reads_pstate)
			get_register(CORE(regs.pstate));
	}
}

int main(void)
{
	struct kvm_guest_debug debug = {
		.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
	};
	uint64_t address, entry, end;
	int kvm, reads_pstate;
	long first, steps;
	size_t bytes;
	FILE *job;

	mkdir("/dev", 0755);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	job = fopen("/job", "r");
	if (!job || fscanf(job, "%li %zi %li %li %ld %ld %d", &address, &bytes, &entry, &end, &first,
			   &steps, &reads_pstate) != 7)
		checked(-1, "/job");
	kvm = checked(open("/dev/kvm", O_RDWR), "/dev/kvm");
	vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	load_payload(address, bytes);
	create_vcpu(kvm);
	set_register(CORE(regs.pstate), EL1H_MASKED);
	checked(ioctl(vcpu, KVM_SET_GUEST_DEBUG, &debug), "KVM_SET_GUEST_DEBUG");
	step(entry, end, first, reads_pstate);
	puts("floor: begin");
	fflush(stdout);
	step(entry, end, steps, reads_pstate);
	puts("floor: end");
	fflush(stdout);
	reboot(RB_POWER_OFF);
}
