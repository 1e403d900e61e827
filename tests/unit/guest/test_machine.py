"""The command lines of L0 and of the QEMU in L1, and that a real QEMU takes the latter."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from qemu_diff.guest.image import LOAD_ADDRESS, MEMORY_BYTES
from qemu_diff.guest.machine import SHARED_BYTES, WITH_QEMU, MachineFiles, argv, port_device
from qemu_diff.guest.nested import (
    GDBSTUB,
    MONITOR,
    PROGRAM,
    QMP,
    QTEST,
    Nested,
    devices,
    nested_argv,
)
from qemu_diff.guest.qemu import Qemu
from qemu_diff.model import MachineSpec

QEMU = Qemu(Path("qemu"), "", "", sandbox=True, cpus=("max",))
THERE = Path("there")


def of_l0(*ports: str, shared: Path | None = THERE) -> list[str]:
    files = MachineFiles(
        THERE, THERE, shared, THERE, THERE, None, ports=tuple(Path(one) for one in ports)
    )
    return argv(QEMU, MachineSpec(), files, 1)


def values(command: list[str] | tuple[str, ...], option: str) -> list[str]:
    """What stands behind each occurrence of an option."""
    return [command[index + 1] for index, one in enumerate(command) if one == option]


# --- L0 ---


def test_ports_are_numbered_in_order_on_one_bus() -> None:
    command = of_l0("a", "b,c")
    assert values(command, "-chardev") == [
        "socket,id=port0,path=a,server=on,wait=off",
        "socket,id=port1,path=b,,c,server=on,wait=off",
    ]
    assert values(command, "-device")[1:] == [
        "virtio-serial-pci",
        "virtserialport,chardev=port0,name=port0",
        "virtserialport,chardev=port1,name=port1",
    ]


def test_without_ports_nothing_is_added() -> None:
    assert "virtio-serial-pci" not in of_l0()
    assert "-chardev" not in of_l0()


def test_a_qemu_in_l1_and_only_that_has_random_numbers_from_the_cpu() -> None:
    (with_ports,), (without,) = values(of_l0("a"), "-append"), values(of_l0(), "-append")
    assert with_ports == " ".join([without, *WITH_QEMU])
    assert "random.trust_cpu" not in without


def test_the_shared_region_may_be_missing() -> None:
    assert values(of_l0(), "-object") == [
        f"memory-backend-file,id=shared,mem-path=there,size={SHARED_BYTES},share=on"
    ]
    assert values(of_l0(), "-device") == ["ivshmem-plain,memdev=shared"]
    assert "-object" not in of_l0(shared=None)
    assert "-device" not in of_l0(shared=None)


def test_l1_counts_ports_from_1() -> None:
    assert [port_device(number) for number in range(3)] == [
        "/dev/vport0p1",
        "/dev/vport0p2",
        "/dev/vport0p3",
    ]


# --- L1's QEMU ---

EACH = [Nested(1, stub, qtest) for stub in (True, False) for qtest in (True, False)]


@pytest.mark.parametrize("nested", EACH)
def test_each_port_is_a_device_and_each_device_but_kvm_s_a_chardev(nested: Nested) -> None:
    pipes = [one.rpartition("path=")[2] for one in values(nested_argv(nested, "/p"), "-chardev")]
    assert devices(nested) == ("/dev/kvm", *pipes)
    assert len(pipes) == nested.ports == (4 if nested.qtest else 3)


@pytest.mark.parametrize("nested", EACH)
def test_who_uses_which_port(nested: Nested) -> None:
    command = nested_argv(nested, "/p")
    at = {
        one.split(",")[1].removeprefix("id="): one.rpartition("path=")[2]
        for one in values(command, "-chardev")
    }
    assert (at["gdb"], at["monitor"], at["qmp"]) == tuple(
        port_device(number) for number in (GDBSTUB, MONITOR, QMP)
    )
    assert at.get("qtest") == (port_device(QTEST) if nested.qtest else None)
    assert values(command, "-gdb") == (["chardev:gdb"] if nested.stub else [])
    assert values(command, "-qtest") == (["chardev:qtest"] if nested.qtest else [])
    assert values(command, "-mon") == ["chardev=monitor,mode=readline", "chardev=qmp,mode=control"]


@pytest.mark.parametrize("vcpus", [1, 3])
def test_l2_has_its_vcpus_and_its_payload_and_stands_still(vcpus: int) -> None:
    command = nested_argv(Nested(vcpus), "/p")
    assert command[0] == "/usr/bin/qemu-system-aarch64"
    assert values(command, "-smp") == [str(vcpus)]
    assert "-S" in command
    assert values(command, "-device") == ["loader,file=/p,addr=0x5a5a0000,cpu-num=0,force-raw=on"]


def test_the_payload_s_memory_is_ram() -> None:
    (memory,) = values(nested_argv(Nested(), "/p"), "-object")
    mib = int(memory.partition("size=")[2].partition("M")[0])
    end = LOAD_ADDRESS + MEMORY_BYTES
    assert (end - 0x4000_0000) <= mib << 20 < (end - 0x4000_0000) + (1 << 20)


# --- and a real one ---


@pytest.mark.integration
@pytest.mark.skipif(not shutil.which("qemu-system-aarch64"), reason="no QEMU here")
@pytest.mark.parametrize("nested", [*EACH, Nested(vcpus=2)])
def test_a_real_qemu_takes_it(nested: Nested, tmp_path: Path) -> None:
    """With TCG in KVM's place, and sockets in the ports'."""
    payload, ram = tmp_path / "payload", tmp_path / "ram"
    payload.write_bytes(b"\x1f\x20\x03\xd5" * 4)
    ours, theirs = socket.socketpair()
    of_qmp = f"path={port_device(QMP)}"

    def here(one: str) -> str:
        if one.startswith("pipe,"):
            _, name, path = one.split(",")
            return f"socket,{name},fd={theirs.fileno()}" if path == of_qmp else f"null,{name}"
        swapped = {"kvm": "tcg", "host": "max", PROGRAM: "qemu-system-aarch64"}
        return swapped.get(one, one).replace("mem-path=/ram", f"mem-path={ram}")

    command = [here(one) for one in nested_argv(nested, str(payload))]
    told = ("qmp_capabilities", "query-status", "quit")
    ours.sendall("".join(json.dumps({"execute": one}) for one in told).encode())
    ours.settimeout(20)
    with ours, theirs:
        done = subprocess.run(
            command,
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
        theirs.close()
        answers = [json.loads(line) for line in ours.makefile("r")]
    assert (done.returncode, done.stderr) == (0, "")
    states = [one["return"] for one in answers if one.get("return")]
    assert [state["status"] for state in states] == ["prelaunch"]
    assert ram.stat().st_size >= MEMORY_BYTES
