"""Interrupts into a debugger's L2: lines of its GIC, raised through a small qtest."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import pytest
from fakes.unix_server import Serve, endless, mute

from qemu_diff.abi import GUEST_COUNTERS, TimerKind
from qemu_diff.drive.lines import (
    ACKNOWLEDGED,
    LINES,
    NESTED_ONE_IN,
    ONE_IN,
    Lines,
    Qtest,
    Raised,
    lines_for,
)
from qemu_diff.errors import DebuggerError
from qemu_diff.flood.placement import TIMER_KINDS
from qemu_diff.model import FloodSource, GuestInterrupts, Payload

GIC = "/machine/unattached/device[2]"
BEGIN, END = 0x5A5A_0000, 0x5A5A_0040
HANDLER, COUNT, COUNTED, HANDLER_END = 0x5A5A_0100, 0x5A5A_0180, 0x5A5A_018C, 0x5A5A_01C0
COUNTERS = 0x5A5A_2000
PAYLOAD = Payload(
    "p",
    b"",
    BEGIN,
    BEGIN,
    BEGIN,
    END,
    ((BEGIN, "step_begin"), (HANDLER, "irq_handler"), (COUNT, ACKNOWLEDGED)),
    (),
    interrupts=GuestInterrupts(HANDLER - 0x40, (HANDLER, HANDLER_END), 0x5A5A_0800, COUNTERS),
)
EDGE, LEVEL, PPI = FloodSource.SPI_EDGE, FloodSource.SPI_LEVEL, FloodSource.PPI


@dataclass
class L2:
    """What L2 has counted, and the levels that its GIC was shown."""

    counters: np.ndarray = field(default_factory=lambda: np.zeros(1, GUEST_COUNTERS))
    heard: list[str] = field(default_factory=list)

    def read_memory(self, address: int, size: int) -> bytes:
        assert (address, size) == (COUNTERS, GUEST_COUNTERS.itemsize)
        return self.counters.tobytes()

    def handle(self, source: FloodSource) -> None:
        self.counters["handled"][0, TIMER_KINDS[source]] += 1

    def levels(self) -> list[tuple[int, int]]:
        """(line, level) of each command; clears them."""
        start = f"set_irq_in {GIC} unnamed-gpio-in "
        assert all(one.startswith(start) for one in self.heard)
        levels = [one.removeprefix(start).split() for one in self.heard]
        self.heard.clear()
        return [(int(line), int(level)) for line, level in levels]

    def qtest(self, connection: socket.socket) -> None:
        """Says OK to whatever it is told, in two pieces."""
        while data := connection.recv(4096):
            self.heard.append(data.decode().removesuffix("\n"))
            connection.sendall(b"O")
            connection.sendall(b"K\n")


@contextmanager
def speaking(serve: Serve, answer_s: float = 5.0) -> Iterator[Qtest]:
    ours, theirs = socket.socketpair()

    def run() -> None:
        with theirs, suppress(OSError):
            serve(theirs)

    server = threading.Thread(target=run, daemon=True)
    server.start()
    with ours:
        yield Qtest(ours, GIC, answer_s=answer_s)
    server.join(timeout=5)
    assert not server.is_alive()


@pytest.fixture
def l2() -> L2:
    return L2()


class Always(random.Random):
    """It is always time for an interrupt."""

    def randrange(self, *_: object) -> int:  # type: ignore[override]
        return 0


@contextmanager
def flooded(l2: L2, *sources: FloodSource, draws: random.Random | None = None) -> Iterator[Lines]:
    with speaking(l2.qtest) as qtest:
        yield Lines(qtest, PAYLOAD, l2.read_memory, draws or Always(), lines_for(sources))


# --- raising and lowering ------------------------------------------------------------------------


def test_lines_are_the_gic_s_inputs_of_the_payloads_interrupts() -> None:
    """QEMU's GICv3: SPIs from INTID 32, then 32 inputs for the PPIs of each CPU."""
    assert LINES == {EDGE: 40 - 32, LEVEL: 41 - 32, PPI: 256 + 20}
    sources = [FloodSource.HOST_TIMER, EDGE, FloodSource.DEVICE, PPI]
    assert [one.source for one in lines_for(sources)] == [EDGE, PPI]


def test_an_edge_is_raised_and_lowered_at_once(l2: L2) -> None:
    with flooded(l2, EDGE) as lines:
        lines.between(BEGIN)
        assert l2.levels() == [(8, 1), (8, 0)]
        assert lines.raised() == (Raised(TimerKind.SPI_EDGE, 1, 0, 0),)


@pytest.mark.parametrize(("source", "line"), [(LEVEL, 9), (PPI, 276)])
def test_a_level_stays_until_the_handler_has_counted_it(
    l2: L2, source: FloodSource, line: int
) -> None:
    with flooded(l2, source) as lines:
        for pc in (BEGIN, BEGIN + 4, HANDLER, COUNT - 4, COUNT, COUNT + 8):
            lines.between(pc)
        assert l2.levels() == [(line, 1)]
        l2.handle(source)
        lines.draws = random.Random(1)
        lines.between(COUNTED)
        assert l2.levels() == [(line, 0)]
        lines.between(COUNTED + 4)
        assert l2.levels() == []


@pytest.mark.parametrize("pc", range(COUNTED, HANDLER_END, 4))
def test_a_level_falls_though_the_stop_behind_its_device_was_lost(l2: L2, pc: int) -> None:
    """The device's register is MMIO: of a kernel that loses its step, nobody sees the label."""
    with flooded(l2, LEVEL) as lines:
        lines.between(BEGIN)
        l2.handle(LEVEL)
        lines.draws = random.Random(1)
        lines.between(pc)
        assert l2.levels() == [(9, 1), (9, 0)]


def test_a_level_does_not_fall_because_another_interrupt_is_handled(l2: L2) -> None:
    """It would be taken from the GIC before L2 has seen it: nobody's fault, and no longer there."""
    with flooded(l2, LEVEL, EDGE) as lines:
        while (9, 1) not in l2.levels():
            lines.between(BEGIN)
        l2.handle(EDGE)
        lines.draws = random.Random(1)
        lines.lines = [one for one in lines.lines if one.source is LEVEL]
        for pc in range(HANDLER, HANDLER_END, 4):
            lines.between(pc)
        assert l2.levels() == []


def test_nothing_is_raised_at_a_pass_s_end(l2: L2) -> None:
    with flooded(l2, EDGE, LEVEL, PPI) as lines:
        for _ in range(20):
            lines.between(END)
        assert l2.heard == []
        assert {(one.sent, one.held_back) for one in lines.raised()} == {(0, 0)}


def test_without_a_line_nothing_is_read_or_raised() -> None:
    def unread(address: int, size: int) -> bytes:
        raise AssertionError(f"{size} bytes at {address:#x}")

    with speaking(mute) as qtest:
        lines = Lines(qtest, PAYLOAD, unread, Always())
        for pc in range(BEGIN, HANDLER_END, 4):
            lines.between(pc)


def test_what_is_not_yet_handled_is_held_back(l2: L2) -> None:
    """Two of one number that are pending are one."""
    with flooded(l2, EDGE) as lines:
        for _ in range(4):
            lines.between(BEGIN)
        assert l2.levels() == [(8, 1), (8, 0)]
        l2.handle(EDGE)
        lines.between(BEGIN)
        assert l2.levels() == [(8, 1), (8, 0)]
        assert lines.raised() == (Raised(TimerKind.SPI_EDGE, 2, 3, 1),)


def test_one_source_does_not_hold_back_another(l2: L2) -> None:
    with flooded(l2, EDGE, LEVEL, PPI) as lines:
        for _ in range(60):
            lines.between(BEGIN)
        assert sorted(l2.levels()) == [(8, 0), (8, 1), (9, 1), (276, 1)]
        assert [(one.kind, one.sent) for one in lines.raised()] == [
            (TimerKind.SPI_EDGE, 1),
            (TimerKind.SPI_LEVEL, 1),
            (TimerKind.PPI, 1),
        ]
        assert sum(one.held_back for one in lines.raised()) == 57


@pytest.mark.parametrize(
    ("pc", "one_in"),
    [
        (BEGIN, ONE_IN),
        (HANDLER - 4, ONE_IN),
        (HANDLER, NESTED_ONE_IN),
        (HANDLER_END - 4, NESTED_ONE_IN),
        (HANDLER_END, ONE_IN),
    ],
)
def test_the_handler_is_interrupted_seldom(l2: L2, pc: int, one_in: int) -> None:
    stops = 3_000
    with flooded(l2, EDGE, draws=random.Random(7)) as lines:
        for _ in range(stops):
            lines.between(pc)
        (edge,) = lines.raised()
    assert edge.sent + edge.held_back == pytest.approx(stops / one_in, rel=0.3)


def test_the_same_seed_raises_the_same(l2: L2) -> None:
    found = []
    for seed in (5, 5, 6):
        with flooded(l2, EDGE, PPI, draws=random.Random(seed)) as lines:
            for pc in range(BEGIN, END, 4):
                lines.between(pc)
            found.append(lines.raised())
        l2.heard.clear()
    assert found[0] == found[1] != found[2]


def test_counters_are_l2_s_own(l2: L2) -> None:
    row = l2.counters[0]
    row["handled"] = range(10, 20)
    for name, value in {"sgis_sent": 1, "sgis_handled": 2, "spurious": 3, "nested": 4}.items():
        row[name] = value
    with flooded(l2, EDGE, LEVEL, PPI) as lines:
        counters = lines.counters()
        assert counters["handled"].tolist() == [*range(10, 20)]
        assert [int(counters[name]) for name in GUEST_COUNTERS.names[1:]] == [1, 2, 3, 4]
        assert [(one.kind, one.handled) for one in lines.raised()] == [
            (TimerKind.SPI_EDGE, 12),
            (TimerKind.SPI_LEVEL, 13),
            (TimerKind.PPI, 15),
        ]


# --- qtest ---------------------------------------------------------------------------------------


def answers(words: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(words)
        connection.recv(4096)

    return serve


def gone(connection: socket.socket) -> None:
    connection.recv(4096)


def complaint(serve: Serve, answer_s: float = 5.0) -> str:
    with speaking(serve, answer_s) as qtest, pytest.raises(DebuggerError) as caught:
        qtest.set_line(8, 1)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_refusal_says_what_was_asked_and_answered() -> None:
    assert complaint(answers(b"FAIL Unknown device\nmore\n")) == (
        f"the qtest of L1's QEMU: 'set_irq_in {GIC} unnamed-gpio-in 8 1' was refused: "
        "FAIL Unknown device more"
    )


@pytest.mark.parametrize("words", [b"\xff\xfe\n", b"\n", b"IRQ raise 8\n"])
def test_nonsense_is_a_refusal(words: bytes) -> None:
    assert "' was refused: " in complaint(answers(words))


def test_an_answer_without_an_end() -> None:
    assert complaint(endless(b"OK ", b"x" * 512)).endswith("unnamed-gpio-in 8 1' has no end")


def test_silence_ends() -> None:
    assert complaint(mute, 0.1) == "the qtest of L1's QEMU: timed out"


def test_half_an_answer_is_silence() -> None:
    assert complaint(answers(b"OK"), 0.1) == "the qtest of L1's QEMU: timed out"


def test_a_qtest_that_goes_away() -> None:
    assert complaint(gone) == "the qtest of L1's QEMU: it went away"
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(DebuggerError, match=r"^the qtest of L1's QEMU: Broken pipe$"):
        Qtest(ours, GIC).set_line(8, 1)
