/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_VM_H
#define STEPVMM_VM_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

/* An id of KVM_{GET,SET}_ONE_REG for a 64-bit core register (KVM API, 4.68). */
#define CORE_REGISTER(member) \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(member))

#define VM_DISTRIBUTOR		0x08000000ull	/* QEMU's virt has its GIC there, too */
#define VM_REDISTRIBUTOR	0x080a0000ull

struct vm {
	int fd;
	int vcpu;
	struct kvm_run *run;
	uint8_t *memory;
	uint64_t load_address;
	size_t memory_bytes;
};

/* A VM with a vgic v3, one vCPU with PSCI 0.2, and one slot of zeroed memory. */
void vm_create(struct vm *vm, uint64_t load_address, size_t memory_bytes);

uint64_t vm_get_register(const struct vm *vm, uint64_t id);
void vm_set_register(const struct vm *vm, uint64_t id, uint64_t value);

/* KVM_ARM_VCPU_INIT, as at the vCPU's creation: resets it. */
void vm_init_vcpu(const struct vm *vm);

/* KVM_SET_GUEST_DEBUG. control: KVM_GUESTDBG_*; bvr, bcr: the first hardware breakpoint */
void vm_set_debug(const struct vm *vm, uint32_t control, uint64_t bvr, uint64_t bcr);

/* Lets a vCPU go on that KVM has stopped. */
void vm_make_runnable(const struct vm *vm);

/* Deletes the memory slot and sets it again: stage 2 maps nothing of it. */
void vm_unmap(const struct vm *vm);

/* From now on this signal to the vCPU thread does no more than end KVM_RUN, with -EINTR. */
void vm_interruptible_by(int signal);

/* The instruction word at an IPA; 0 (UDF #0) outside the memory slot. */
uint32_t vm_instruction(const struct vm *vm, uint64_t address);

/* Stores an instruction word at an IPA; ends L1 if that lies outside the memory slot. */
void vm_write(const struct vm *vm, uint64_t address, uint32_t word);

#endif
