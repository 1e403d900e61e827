"""The L0 machine as a command line: one commented table of options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qemu_diff.guest.qemu import TIMER_EVENT, Qemu
from qemu_diff.model import KvmMode, MachineSpec

SHARED_BYTES = 64 << 20
"""Size of the shared region in bytes; a PCI BAR's size is a power of two."""

COUNTER_HZ = 1_000_000_000
"""Frequency of the system counter: with ``-icount shift=0`` one instruction, one tick, one ns."""

KVM_MODE_ARGUMENTS = {
    KvmMode.VHE: "",
    KvmMode.NVHE: "kvm-arm.mode=nvhe",
    # The kernel says at KERN_INFO whether it came up; elsewhere its vectors tell the mode.
    KvmMode.PROTECTED: "kvm-arm.mode=protected loglevel=7",
}

_PROTECTED = re.compile(r"Protected [hn]VHE mode initialized successfully")
_UNPROTECTED = "Failed to finalize Hyp protection"
"""Linux arch/arm64/kvm/arm.c, ``kvm_arm_init()``, and pkvm.c, ``finalize_pkvm()``."""

KERNEL_ARGUMENTS = (
    "console=ttyAMA0",
    "rdinit=/init",
    "loglevel=5",  # WARN() prints at KERN_WARNING, which `quiet` would hide
    "panic=-1",  # reboot at once: with -no-reboot QEMU then ends
    "oops=panic",  # an oops in the middle of a step is a finding, not a state to go on from
    "nokaslr",  # the same addresses on every run
    "norandmaps",
    # A distribution's kernel spends nine tenths of its boot on these, in TCG above all.
    "cryptomgr.notests",
    "initcall_blacklist=load_system_certificate_list",
)


WITH_QEMU = ("random.trust_cpu=on",)
"""A QEMU in L1 waits at its start for the kernel's random numbers; the CPU's are from ``-seed``."""


@dataclass(frozen=True)
class Recording:
    """A run that QEMU records, or replays (QEMU docs/system/replay.rst).

    While it replays, virtual time comes from the recording: a debugger may stop the machine as
    often and as long as it likes, and interrupts still come where they came.

    :param replays: False: it is being recorded.
    :param log: QEMU's record of it.
    :param snapshot: an empty qcow2 image, for the machine's state at the begin: without one there
        is no reverse execution. Or None.
    """

    replays: bool
    log: Path
    snapshot: Path | None = None


@dataclass(frozen=True)
class MachineFiles:
    """The files of one boot.

    :param kernel: an arm64 ``Image``.
    :param shared: file of ``SHARED_BYTES`` bytes behind the ivshmem device; or None: there is none.
    :param timer_log: where QEMU logs what it programs into L1's generic timers.
    :param plugin: argument of ``-plugin``, or None.
    :param gdb_socket: where a gdbstub listens; with one, the machine waits at its first
        instruction for a client to let it go. Or None.
    :param qtest_socket: where qtest listens. Or None.
    :param recording: what QEMU records, or replays; or None.
    :param ports: where virtio-serial ports listen, in order: L1 has them as ``/dev/vport0p1``, ….
    """

    kernel: Path
    initramfs: Path
    shared: Path | None
    timer_log: Path
    qmp_socket: Path
    plugin: str | None
    gdb_socket: Path | None = None
    qtest_socket: Path | None = None
    recording: Recording | None = None
    ports: tuple[Path, ...] = ()


def kernel_command_line(machine: MachineSpec, *arguments: str) -> str:
    """L1's kernel command line.

    :param arguments: at its end.
    """
    mode = KVM_MODE_ARGUMENTS[machine.kvm_mode]
    return " ".join(filter(None, (*KERNEL_ARGUMENTS, mode, *arguments)))


def came_up_protected(console: str) -> bool:
    """Whether L1's kernel says that its KVM is a protected one.

    :param console: what L1 printed.
    """
    return bool(_PROTECTED.search(console)) and _UNPROTECTED not in console


def cpu_option(cpu: str) -> str:
    """QEMU's ``-cpu`` argument for a CPU model."""
    # Without pauth-impdef=on TCG computes QARMA for each PAC instruction, several times slower
    # (QEMU docs/system/arm/cpu-features.rst); only `max` has the property everywhere.
    pauth = ",pauth-impdef=on" if cpu == "max" else ""
    return f"{cpu}{pauth},cntfrq={COUNTER_HZ}"


def determinism(seed: int, recording: Recording | None = None) -> list[str]:
    """Options that make a run repeat itself bit for bit.

    :param seed: for QEMU's own random numbers (FEAT_RNG), 31 bits.
    """
    return [
        # Virtual time is the count of executed instructions, and idle time is skipped.
        *("-icount", f"shift=0,sleep=off{_recording(recording)}"),
        # A kernel with an RTC driver reads the time of day at boot.
        *("-rtc", "base=2000-01-01,clock=vm"),
        *("-seed", str(seed)),
    ]


def argv(qemu: Qemu, machine: MachineSpec, files: MachineFiles, seed: int) -> list[str]:
    """QEMU's whole command line for one boot.

    :param seed: see :func:`determinism`.
    """
    return [
        str(qemu.program),
        # --- the machine: EL2 for L1's KVM, a GIC for its vgic, no random DTB properties
        *("-M", f"virt,virtualization=on,gic-version={machine.gic_version},dtb-randomness=off"),
        *("-cpu", cpu_option(machine.cpu)),
        *("-m", str(machine.memory_mib), "-smp", str(machine.cpus)),
        # --- nothing that was not asked for: no network device, no ROM, no display, no TCP port
        *("-nodefaults", "-display", "none", "-no-reboot"),
        *("-serial", "stdio"),
        *("-qmp", f"unix:{escaped(files.qmp_socket)},server=on,wait=off"),
        # --- determinism
        *determinism(seed, files.recording),
        # --- results: a memory-only ivshmem device keeps the run deterministic
        *_shared(files.shared, files.recording),
        # --- what L1 boots
        *("-kernel", str(files.kernel), "-initrd", str(files.initramfs)),
        *("-append", kernel_command_line(machine, *(WITH_QEMU if files.ports else ()))),
        # --- the truth, and when L1's timers fire
        *_plugin(files.plugin),
        *("-trace", f"enable={TIMER_EVENT},file={escaped(files.timer_log)}"),
        *_gdbstub(files.gdb_socket),
        *_qtest(files.qtest_socket),
        *_ports(files.ports),
        *_snapshot(files.recording),
        *_sandbox(qemu),
    ]  # fmt: skip


def escaped(path: Path) -> str:
    """A path as a value in QEMU's option syntax: a comma ends a value, and is written as two."""
    return str(path).replace(",", ",,")


def port_device(number: int) -> str:
    """What L1 calls a virtio-serial port (Linux drivers/char/virtio_console.c, ``add_port()``).

    :param number: from 0.
    """
    # Port 0 is a console's (virtio 1.2, 5.3.2).
    return f"/dev/vport0p{number + 1}"


def _shared(shared: Path | None, recording: Recording | None) -> Sequence[str]:
    if shared is None:
        return ()
    memory = f"memory-backend-file,id=shared,mem-path={escaped(shared)}"
    device = f"ivshmem-plain,memdev=shared{_in_snapshot(recording)}"
    return ("-object", f"{memory},size={SHARED_BYTES},share=on", "-device", device)


def _plugin(plugin: str | None) -> Sequence[str]:
    return ("-plugin", plugin) if plugin else ()


def _gdbstub(socket: Path | None) -> Sequence[str]:
    if socket is None:
        return ()
    backend = f"socket,id=gdb,path={escaped(socket)},server=on,wait=off"
    return ("-S", "-chardev", backend, "-gdb", "chardev:gdb")


def _qtest(socket: Path | None) -> Sequence[str]:
    if socket is None:
        return ()
    return ("-qtest", f"unix:{escaped(socket)},server=on,wait=off", "-qtest-log", "none")


def _ports(sockets: Sequence[Path]) -> Sequence[str]:
    if not sockets:
        return ()
    options = ["-device", "virtio-serial-pci"]
    for number, path in enumerate(sockets):
        name = f"port{number}"
        options += ["-chardev", f"socket,id={name},path={escaped(path)},server=on,wait=off"]
        options += ["-device", f"virtserialport,chardev={name},name={name}"]
    return options


def _recording(recording: Recording | None) -> str:
    if recording is None:
        return ""
    mode = "replay" if recording.replays else "record"
    begin = ",rrsnapshot=begin" if recording.snapshot else ""
    return f",rr={mode},rrfile={escaped(recording.log)}{begin}"


def _snapshot(recording: Recording | None) -> Sequence[str]:
    if recording is None or recording.snapshot is None:
        return ()
    return ("-drive", f"file={escaped(recording.snapshot)},if=none,id=snapshots")


def _in_snapshot(recording: Recording | None) -> str:
    # Only a master's memory is part of a snapshot (QEMU hw/misc/ivshmem.c).
    return ",master=on" if recording and recording.snapshot else ""


def _sandbox(qemu: Qemu) -> Sequence[str]:
    options = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    return ("-sandbox", options) if qemu.sandbox else ()
