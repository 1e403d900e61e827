"""The command line of the QEMU that runs in L1 and has L2 as its guest: stock, with KVM.

Its ``virt`` machine has the GIC where our step VMM has it, and L2's memory reaches from 1 GiB to
where payloads lie: the same payload, at the same address, runs under both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qemu_diff.guest.image import LOAD_ADDRESS, MEMORY_BYTES
from qemu_diff.guest.machine import port_device

PROGRAM = "/usr/bin/qemu-system-aarch64"

GDBSTUB, MONITOR, QMP, QTEST = range(4)
"""Numbers of the virtio-serial ports that L1's QEMU is reached by."""

RAM_BASE = 0x4000_0000
"""QEMU hw/arm/virt.c, ``base_memmap``: VIRT_MEM."""

_MIB = 1 << 20
_RAM_MIB = -(-(LOAD_ADDRESS + MEMORY_BYTES - RAM_BASE) // _MIB)

STUB_CHARDEV = "gdb"


@dataclass(frozen=True)
class Nested:
    """L1's QEMU.

    :param vcpus: of L2.
    :param stub: whether its gdbstub is there from the beginning; else the monitor starts it.
    :param qtest: whether its interrupt lines are in reach.
    :param gic_version: L1's: KVM offers what that can virtualise.
    """

    vcpus: int = 1
    stub: bool = True
    qtest: bool = False
    gic_version: int = 3

    @property
    def ports(self) -> int:
        """How many virtio-serial ports it takes."""
        return QTEST + 1 if self.qtest else QMP + 1


def devices(nested: Nested) -> tuple[str, ...]:
    """The files that L1 must have before its QEMU starts."""
    return ("/dev/kvm", *(port_device(number) for number in range(nested.ports)))


def nested_argv(nested: Nested, payload: str) -> tuple[str, ...]:
    """Its command line.

    :param payload: the file in L1 that holds L2's bytes.
    """
    return (
        PROGRAM,
        *("-M", f"virt,{_gic(nested)},memory-backend=ram", "-accel", "kvm", "-cpu", "host"),
        *("-smp", str(nested.vcpus)),
        # Sparse: L1 has less memory than L2 seems to, and its kernel refuses to promise that much.
        *("-object", f"memory-backend-file,id=ram,mem-path=/ram,size={_RAM_MIB}M,share=on"),
        *("-nodefaults", "-display", "none", "-S"),
        *("-device", f"loader,file={payload},addr={LOAD_ADDRESS:#x},cpu-num=0,force-raw=on"),
        *_chardev(STUB_CHARDEV, GDBSTUB),
        *(("-gdb", f"chardev:{STUB_CHARDEV}") if nested.stub else ()),
        *_chardev("monitor", MONITOR),
        *("-mon", "chardev=monitor,mode=readline"),
        *_chardev("qmp", QMP),
        *("-mon", "chardev=qmp,mode=control"),
        *_qtest(nested.qtest),
    )


def _gic(nested: Nested) -> str:
    return "gic-version=2" if nested.gic_version == 2 else "gic-version=3,its=on"


def _chardev(name: str, port: int) -> Sequence[str]:
    return ("-chardev", f"pipe,id={name},path={port_device(port)}")


def _qtest(wanted: bool) -> Sequence[str]:
    if not wanted:
        return ()
    return (*_chardev("qtest", QTEST), "-qtest", "chardev:qtest", "-qtest-log", "none")
