// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What user space can do to a vCPU from outside: interrupts by each of KVM's
 * ways, and changes of L2's memory.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "shared.h"
#include "vm.h"

#define ITS_TRANSLATER		(VM_ITS + 0x10040)	/* IHI 0069, GITS_TRANSLATER */
#define SPARE_SLOT		1
#define SPARE_ADDRESS		0x70000000ull		/* nothing of L2's is near it */
#define SPARE_BYTES		0x10000
#define DIRTY_WORDS		64			/* one bit for each page of L2's memory */

static char spare[SPARE_BYTES] __attribute__((aligned(SPARE_BYTES)));

static void create_its(const struct vm *vm)
{
	struct kvm_create_device request = { .type = KVM_DEV_TYPE_ARM_VGIC_ITS };
	uint64_t address = VM_ITS;

	vm_ioctl(vm->fd, KVM_CREATE_DEVICE, &request, "KVM_CREATE_DEVICE(vgic ITS)");
	vm_set_device_attribute(request.fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE,
				&address, "vgic ITS address");
	vm_set_device_attribute(request.fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT,
				NULL, "vgic ITS init");
}

static void create_irqfd(struct vm *vm)
{
	struct kvm_irqfd request = { .gsi = VM_SPI_IRQFD - 32 };

	vm->irqfd = eventfd(0, EFD_CLOEXEC);
	if (vm->irqfd < 0)
		end(STATE_FAILED, "eventfd: %s", strerror(errno));
	request.fd = vm->irqfd;
	vm_ioctl(vm->fd, KVM_IRQFD, &request, "KVM_IRQFD");
}

void vm_create_interrupts(struct vm *vm)
{
	create_its(vm);
	create_irqfd(vm);
}

int vm_reaches_guest(enum timer_kind kind)
{
	return kind >= TIMER_SPI_EDGE && kind <= TIMER_VTIMER;
}

static void set_line(const struct vm *vm, uint32_t type, uint32_t intid, uint32_t level)
{
	struct kvm_irq_level request = {
		.irq = type << KVM_ARM_IRQ_TYPE_SHIFT | intid,
		.level = level,
	};

	vm_ioctl(vm->fd, KVM_IRQ_LINE, &request, "KVM_IRQ_LINE");
}

static void signal_msi(const struct vm *vm)
{
	struct kvm_msi request = {
		.address_lo = ITS_TRANSLATER,
		.data = VM_LPI_EVENT,
		.flags = KVM_MSI_VALID_DEVID,
		.devid = VM_LPI_DEVICE,
	};

	vm_ioctl(vm->fd, KVM_SIGNAL_MSI, &request, "KVM_SIGNAL_MSI");
}

static void signal_irqfd(const struct vm *vm)
{
	uint64_t one = 1;

	if (write(vm->irqfd, &one, sizeof(one)) != sizeof(one))
		end(STATE_FAILED, "the irqfd: %s", strerror(errno));
}

static void toggle_spare_slot(const struct vm *vm)
{
	static int there;

	there = !there;
	vm_set_memory_slot(vm, SPARE_SLOT, SPARE_ADDRESS, spare, there ? SPARE_BYTES : 0);
}

static void toggle_dirty_log(struct vm *vm)
{
	uint64_t bitmap[DIRTY_WORDS];
	struct kvm_dirty_log log = { .dirty_bitmap = bitmap };

	if (vm->memory_flags)
		vm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log, "KVM_GET_DIRTY_LOG");
	vm->memory_flags ^= KVM_MEM_LOG_DIRTY_PAGES;
	vm_set_memory_slot(vm, 0, vm->load_address, vm->memory, vm->memory_bytes);
}

void vm_send(struct vm *vm, enum timer_kind kind)
{
	switch (kind) {
	case TIMER_SPI_EDGE:
		set_line(vm, KVM_ARM_IRQ_TYPE_SPI, VM_SPI_EDGE, 1);
		set_line(vm, KVM_ARM_IRQ_TYPE_SPI, VM_SPI_EDGE, 0);
		break;
	case TIMER_SPI_LEVEL:
		set_line(vm, KVM_ARM_IRQ_TYPE_SPI, VM_SPI_LEVEL, 1);
		break;
	case TIMER_IRQFD:
		signal_irqfd(vm);
		break;
	case TIMER_PPI:
		set_line(vm, KVM_ARM_IRQ_TYPE_PPI, VM_PPI, 1);
		break;
	case TIMER_LPI:
		signal_msi(vm);
		break;
	case TIMER_MEMSLOT:
		toggle_spare_slot(vm);
		break;
	case TIMER_DIRTY_LOG:
		toggle_dirty_log(vm);
		break;
	default:
		end(STATE_FAILED, "no interrupt of kind %u can be sent", kind);
	}
}

void vm_lower(const struct vm *vm, uint32_t intid)
{
	if (intid == VM_SPI_LEVEL)
		set_line(vm, KVM_ARM_IRQ_TYPE_SPI, intid, 0);
	else if (intid == VM_PPI)
		set_line(vm, KVM_ARM_IRQ_TYPE_PPI, intid, 0);
}
