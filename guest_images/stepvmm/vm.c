// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "hot.h"
#include "shared.h"
#include "vm.h"

int vm_ioctl(int fd, unsigned long request, void *argument, const char *what)
{
	int result = ioctl(fd, request, argument);

	if (result < 0)
		end(STATE_FAILED, "%s: %s", what, strerror(errno));
	return result;
}

static int open_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		end(STATE_NO_KVM, "this kernel offers no KVM: /dev/kvm: %s", strerror(errno));
	if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_SET_GUEST_DEBUG) <= 0)
		end(STATE_NO_KVM, "this kernel's KVM has no KVM_CAP_SET_GUEST_DEBUG");
	return kvm;
}

void vm_set_device_attribute(int device, uint32_t group, uint64_t attribute, uint64_t *value,
			     const char *what)
{
	struct kvm_device_attr request = {
		.group = group,
		.attr = attribute,
		.addr = (uintptr_t)value,
	};

	vm_ioctl(device, KVM_SET_DEVICE_ATTR, &request, what);
}

/*
 * The order is the KVM API's: device, vCPUs, addresses, init (devices/arm-vgic-v3.rst,
 * devices/arm-vgic.rst). KVM offers the version that L1's own GIC can virtualise.
 */
static void create_vgic(int vm, struct kvm_create_device *vgic)
{
	vgic->type = KVM_DEV_TYPE_ARM_VGIC_V3;
	if (ioctl(vm, KVM_CREATE_DEVICE, vgic) == 0)
		return;
	vgic->type = KVM_DEV_TYPE_ARM_VGIC_V2;
	vm_ioctl(vm, KVM_CREATE_DEVICE, vgic, "KVM_CREATE_DEVICE(vgic)");
}

static void set_vgic_address(int device, uint64_t region, uint64_t address, const char *what)
{
	vm_set_device_attribute(device, KVM_DEV_ARM_VGIC_GRP_ADDR, region, &address, what);
}

static void init_vgic(const struct kvm_create_device *vgic)
{
	int device = vgic->fd;

	if (vgic->type == KVM_DEV_TYPE_ARM_VGIC_V3) {
		set_vgic_address(device, KVM_VGIC_V3_ADDR_TYPE_DIST, VM_DISTRIBUTOR,
				 "vgic distributor address");
		set_vgic_address(device, KVM_VGIC_V3_ADDR_TYPE_REDIST, VM_REDISTRIBUTOR,
				 "vgic redistributor address");
	} else {
		set_vgic_address(device, KVM_VGIC_V2_ADDR_TYPE_DIST, VM_DISTRIBUTOR,
				 "vgic distributor address");
		set_vgic_address(device, KVM_VGIC_V2_ADDR_TYPE_CPU, VM_CPU_INTERFACE,
				 "vgic CPU interface address");
	}
	vm_set_device_attribute(device, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL,
				"vgic init");
}

void vm_init_vcpu(struct vm *vm)
{
	struct kvm_vcpu_init init;

	vm->pc_known = 0;
	vm_ioctl(vm->fd, KVM_ARM_PREFERRED_TARGET, &init, "KVM_ARM_PREFERRED_TARGET");
	init.features[0] |= 1u << KVM_ARM_VCPU_PSCI_0_2;
	vm_ioctl(vm->vcpu, KVM_ARM_VCPU_INIT, &init, "KVM_ARM_VCPU_INIT");
}

static void create_vcpu(struct vm *vm, int kvm)
{
	int size;

	vm->vcpu = vm_ioctl(vm->fd, KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU");
	vm_init_vcpu(vm);
	size = vm_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
	vm->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	if (vm->run == MAP_FAILED)
		end(STATE_FAILED, "mapping kvm_run: %s", strerror(errno));
}

void vm_set_memory_slot(const struct vm *vm, uint32_t slot, uint64_t address, void *memory,
			uint64_t bytes)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = slot ? 0 : vm->memory_flags,
		.guest_phys_addr = address,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)memory,
	};

	vm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

static void create_memory(struct vm *vm)
{
	/* Populated now: no host page fault may fall into a step window. */
	vm->memory = mmap(NULL, vm->memory_bytes, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (vm->memory == MAP_FAILED)
		end(STATE_FAILED, "%zu bytes for L2: %s", vm->memory_bytes, strerror(errno));
	vm_set_memory_slot(vm, 0, vm->load_address, vm->memory, vm->memory_bytes);
}

void vm_unmap(const struct vm *vm)
{
	vm_set_memory_slot(vm, 0, vm->load_address, vm->memory, 0);
	vm_set_memory_slot(vm, 0, vm->load_address, vm->memory, vm->memory_bytes);
}

void vm_create(struct vm *vm, uint64_t load_address, size_t memory_bytes)
{
	struct kvm_create_device vgic = { 0 };
	int kvm = open_kvm();

	vm->load_address = load_address;
	vm->memory_bytes = memory_bytes;
	vm->fd = vm_ioctl(kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
	create_memory(vm);
	create_vgic(vm->fd, &vgic);
	create_vcpu(vm, kvm);
	init_vgic(&vgic);
}

HOT int vm_run(struct vm *vm)
{
	vm->pc_known = 0;
	return -raw_ioctl(vm->vcpu, KVM_RUN, 0);
}

HOT uint64_t vm_get_register(const struct vm *vm, uint64_t id)
{
	uint64_t value = 0;
	struct kvm_one_reg request = { .id = id, .addr = (uintptr_t)&value };
	int error = -raw_ioctl(vm->vcpu, KVM_GET_ONE_REG, (uintptr_t)&request);

	if (error)
		end(STATE_FAILED, "KVM_GET_ONE_REG %#llx: %s", (unsigned long long)id,
		    strerror(error));
	return value;
}

HOT uint64_t vm_pc(struct vm *vm)
{
	if (!vm->pc_known)
		vm->pc = vm_get_register(vm, CORE_REGISTER(regs.pc));
	vm->pc_known = 1;
	return vm->pc;
}

void vm_set_register(struct vm *vm, uint64_t id, uint64_t value)
{
	struct kvm_one_reg request = { .id = id, .addr = (uintptr_t)&value };

	vm->pc_known = 0;
	if (ioctl(vm->vcpu, KVM_SET_ONE_REG, &request))
		end(STATE_FAILED, "KVM_SET_ONE_REG %#llx: %s", (unsigned long long)id,
		    strerror(errno));
}

void vm_set_debug(const struct vm *vm, uint32_t control, uint64_t bvr, uint64_t bcr)
{
	struct kvm_guest_debug debug = {
		.control = control,
		.arch = { .dbg_bvr = { bvr }, .dbg_bcr = { bcr } },
	};

	vm_ioctl(vm->vcpu, KVM_SET_GUEST_DEBUG, &debug, "KVM_SET_GUEST_DEBUG");
}

void vm_make_runnable(const struct vm *vm)
{
	struct kvm_mp_state state = { .mp_state = KVM_MP_STATE_RUNNABLE };

	vm_ioctl(vm->vcpu, KVM_SET_MP_STATE, &state, "KVM_SET_MP_STATE");
}

static void interrupt(int signal)
{
	(void)signal;	/* its arrival is all */
}

void vm_interruptible_by(int signal)
{
	struct sigaction action = { .sa_handler = interrupt };

	if (sigaction(signal, &action, NULL))
		end(STATE_FAILED, "sigaction: %s", strerror(errno));
}

HOT static uint8_t *memory_at(const struct vm *vm, uint64_t address, size_t bytes)
{
	uint64_t offset = address - vm->load_address;

	if (bytes > vm->memory_bytes || offset > vm->memory_bytes - bytes)
		return NULL;
	return vm->memory + offset;
}

void *vm_at(const struct vm *vm, uint64_t address, size_t bytes)
{
	void *there = memory_at(vm, address, bytes);

	if (!there)
		end(STATE_FAILED, "no memory of L2 is at %#llx", (unsigned long long)address);
	return there;
}

HOT uint32_t vm_instruction(const struct vm *vm, uint64_t address)
{
	const uint8_t *there = memory_at(vm, address, sizeof(uint32_t));
	uint32_t word = 0;

	if (there)
		memcpy(&word, there, sizeof(word));
	return word;
}

void vm_write(const struct vm *vm, uint64_t address, uint32_t word)
{
	char *there = vm_at(vm, address, sizeof(word));

	memcpy(there, &word, sizeof(word));
	__builtin___clear_cache(there, there + sizeof(word));
}
