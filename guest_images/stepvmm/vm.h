/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_VM_H
#define STEPVMM_VM_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <step_abi.h>

/* An id of KVM_{GET,SET}_ONE_REG for a 64-bit core register (KVM API, 4.68). */
#define CORE_REGISTER(member) \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(member))

#define VM_DISTRIBUTOR		0x08000000ull	/* QEMU's virt has its GIC there, too */
#define VM_CPU_INTERFACE	0x08010000ull	/* of a vgic v2 */
#define VM_REDISTRIBUTOR	0x080a0000ull
#define VM_ITS			0x08080000ull
#define VM_DEVICE		0x0a000000ull	/* payloads/payload.inc: the VMM's own device */
#define VM_DEVICE_ACKNOWLEDGE	(VM_DEVICE + 0)	/* write of an INTID: lower that line */
#define VM_DEVICE_DONE		(VM_DEVICE + 8)	/* write: L2 has done what it was called for */

/* What payloads/payload.inc enables, each with a priority of its own. */
#define VM_SPI_EDGE		40
#define VM_SPI_LEVEL		41
#define VM_SPI_IRQFD		42
#define VM_PPI			20
#define VM_LPI_DEVICE		0		/* KVM_SIGNAL_MSI: DeviceID and EventID of LPI 8192 */
#define VM_LPI_EVENT		0

struct vm {
	int fd;
	int vcpu;
	struct kvm_run *run;
	uint8_t *memory;
	uint64_t load_address;
	size_t memory_bytes;
	uint32_t memory_flags;
	int irqfd;
	uint64_t pc;			/* as KVM last told it, as long as nothing can have changed it */
	int pc_known;
};

/* A VM with a vgic v3, one vCPU with PSCI 0.2, and one slot of zeroed memory. */
void vm_create(struct vm *vm, uint64_t load_address, size_t memory_bytes);

/* What interrupts sent into L2 need beside that: an ITS, an eventfd. */
void vm_create_interrupts(struct vm *vm);

/* Whether L2's handler hears of it. */
int vm_reaches_guest(enum timer_kind kind);

/* Does what this kind says; see step_abi.h. */
void vm_send(struct vm *vm, enum timer_kind kind);

/* Lowers the line of a level-triggered interrupt. */
void vm_lower(const struct vm *vm, uint32_t intid);

/* Slot 0 is L2's own memory; no bytes: the slot is deleted (KVM API, 4.35). */
void vm_set_memory_slot(const struct vm *vm, uint32_t slot, uint64_t address, void *memory,
			uint64_t bytes);

/* Where L1 sees so many bytes of L2's memory; ends L1 if they are not all there. */
void *vm_at(const struct vm *vm, uint64_t address, size_t bytes);

int vm_ioctl(int fd, unsigned long request, void *argument, const char *what);
void vm_set_device_attribute(int device, uint32_t group, uint64_t attribute, uint64_t *value,
			     const char *what);

/* KVM_RUN: 0, or the error. */
int vm_run(struct vm *vm);

uint64_t vm_get_register(const struct vm *vm, uint64_t id);
void vm_set_register(struct vm *vm, uint64_t id, uint64_t value);

/* L2's PC; KVM is asked only where it may be another than before. */
uint64_t vm_pc(struct vm *vm);

/* KVM_ARM_VCPU_INIT, as at the vCPU's creation: resets it. */
void vm_init_vcpu(struct vm *vm);

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
