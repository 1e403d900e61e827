"""The picture: what came of an interrupt at each moment of each instruction's step.

Rows are instructions, and in a row one bar for each kernel, the baseline above; the axis is
virtual time from the entry into KVM_RUN, the same for all bars; the fill is the verdict. L1's path
through a quiet step stands above the first row that takes it. Model in, SVG text out: no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor, log10
from xml.sax.saxutils import escape, quoteattr

from qemu_diff.compare.landmarks import GUEST_ENTRY, GUEST_EXIT
from qemu_diff.kernels.symbols import EXIT_HANDLERS
from qemu_diff.model import (
    MIXED,
    CampaignResult,
    CellResult,
    Instruction,
    Landmark,
    PlacementMap,
    Span,
    ViolationKind,
)
from qemu_diff.report.printable import printable

OK = "ok"


@dataclass(frozen=True)
class Side:
    """One kernel's maps."""

    kernel: str
    maps: tuple[PlacementMap, ...]

    def of(self, address: int) -> PlacementMap | None:
        """The map of the instruction at an address."""
        return next((one for one in self.maps if one.instruction.address == address), None)


@dataclass(frozen=True)
class Picture:
    """One scenario on one machine, of all kernels that it was run on.

    :param name: the cells' id without the kernel; a file's name as well.
    :param sides: baselines first.
    """

    name: str
    sides: tuple[Side, ...]

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """Of all sides, in address order."""
        found = {one.instruction for side in self.sides for one in side.maps}
        by_address = {one.address: one for one in sorted(found, key=lambda one: one.label)}
        return tuple(by_address[address] for address in sorted(by_address))

    @property
    def last_ns(self) -> int:
        """End of the axis."""
        maps = [one for side in self.sides for one in side.maps]
        ends = [one.window_ns for one in maps]
        ends += [one.spans[-1].last_ns + 1 for one in maps if one.spans]
        return max(ends, default=1) or 1

    @property
    def broken(self) -> bool:
        """Whether there is anything in it but ``ok``."""
        return any(broken_spans(one) for side in self.sides for one in side.maps)


def pictures(result: CampaignResult) -> tuple[Picture, ...]:
    """All pictures of a campaign, in the order of its cells."""
    candidates = {pair.candidate.kernel for pair in result.pairs}
    scenarios: dict[str, list[CellResult]] = {}
    for one in result.cells:
        if one.maps:
            name = one.cell.id.removeprefix(f"{one.cell.kernel}.")
            scenarios.setdefault(name, []).append(one)
    return tuple(
        Picture(
            name,
            tuple(
                Side(one.cell.kernel, one.maps)
                for one in sorted(cells, key=lambda one: one.cell.kernel in candidates)
            ),
        )
        for name, cells in scenarios.items()
    )


def broken_spans(one: PlacementMap) -> tuple[Span, ...]:
    """Its spans that are not ``ok``."""
    return tuple(span for span in one.spans if span.outcome != OK)


def span_sentence(kernel: str, instruction: Instruction, span: Span) -> str:
    """``unpatched, trapped_read: lost-step at 3,159 to 3,624 ns, every ns tried``."""
    when = ns_range(span)
    tried = "every ns tried"
    if is_sparse(span):
        tried = f"{span.placements:,} of {_length(span):,} ns tried"
    return f"{kernel}, {instruction.label}: {span.outcome} at {when}, {tried}"


def ns_range(span: Span) -> str:
    """``3,159 to 3,624 ns``."""
    if span.first_ns == span.last_ns:
        return f"{span.first_ns:,} ns"
    return f"{span.first_ns:,} to {span.last_ns:,} ns"


def is_sparse(span: Span) -> bool:
    """Whether some ns of the span were not tried."""
    return span.placements < _length(span)


def _length(span: Span) -> int:
    return span.last_ns - span.first_ns + 1


# --- looks ---------------------------------------------------------------------------------------

_TEXTURES: dict[str, tuple[str, str]] = {
    OK: ("#a6dcc4", ""),
    ViolationKind.LOST_STEP: ("#d55e00", "M-2,2l4,-4M0,8l8,-8M6,10l4,-4"),
    ViolationKind.SPURIOUS_STEP: ("#b0569a", "M2,2h.01M6,6h.01"),
    ViolationKind.WRONG_PC: ("#0072b2", "M2,0v8M6,0v8"),
    ViolationKind.SS_LEAK: ("#e69f00", "M0,2h8M0,6h8"),
    ViolationKind.STATE_MISMATCH: ("#7a5230", "M0,4h8M4,0v8"),
    MIXED: ("#f0e442", "M0,8l8,-8M0,0l8,8"),
}
"""Outcome → colour (after Okabe and Ito, for all kinds of colour vision), and the texture over it:
a path in a square of 8 units."""

UNTRIED = "untried"

MEANINGS = {
    OK: "ok: one instruction, and its successor reported",
    MIXED: "mixed: the same ns came out both ways",
    UNTRIED: "not tried, or no interrupt can come there",
}

FONTS = '"DejaVu Sans","Liberation Sans","Noto Sans",Verdana,Arial,Roboto,sans-serif'
CODE_FONTS = '"DejaVu Sans Mono","Liberation Mono",Menlo,Consolas,monospace'

_WORDS = f".picture text{{font:11px {FONTS};fill:#1d2733}}"
_CODE = f".picture .code{{font-family:{CODE_FONTS};font-size:10.5px}}"

STYLE = (
    f"{_WORDS}\n{_CODE}\n"
    + """
.picture .strong{font-weight:bold}
.picture .quiet{fill:#5b6875}
.picture .small{font-size:9.5px}
.picture .grid{stroke:#dfe4ea;stroke-width:1}
.picture .axis{stroke:#8995a1;stroke-width:1}
.picture .lead{stroke:#9aa5b1;stroke-width:.8;fill:none}
.picture .tick{stroke:#33414f;stroke-width:.8;stroke-opacity:.35}
.picture .guest{stroke:#111a24;stroke-width:1.6}
.picture .end{stroke:#33414f;stroke-width:1.4}
.picture .untried{fill:#edf0f3}
.picture .sparse{fill-opacity:.55}
.picture .over{stroke:#fff;stroke-width:1.5;stroke-opacity:.75;fill:none;stroke-linecap:round}
.picture .mixed-over{stroke:#000;stroke-width:1;stroke-opacity:.55}
.picture [tabindex]:focus{outline:none;stroke:#1a6bff;stroke-width:2.5}
""".strip()
)
"""On white. A page that can be dark overrides it."""

DARK_STYLE = """
.picture text{fill:#e4e9ee}
.picture .quiet{fill:#a3afba}
.picture .grid{stroke:#2c3742}
.picture .axis{stroke:#74818d}
.picture .lead{stroke:#66737f}
.picture .tick{stroke:#0b1117;stroke-opacity:.5}
.picture .guest{stroke:#f5f8fa}
.picture .end{stroke:#c8d2db}
.picture .untried{fill:#232d36}
.picture .bar-ok{fill:#3f8f72}
.picture [tabindex]:focus{stroke:#7db3ff}
""".strip()


def textures() -> str:
    """The ``<defs>`` that every picture of a page refers to."""
    made = []
    for outcome, (colour, path) in _TEXTURES.items():
        if not path:
            continue
        over = ' class="over mixed-over"' if outcome == MIXED else ' class="over"'
        made.append(
            f'<pattern id="{outcome}" width="8" height="8" patternUnits="userSpaceOnUse">'
            f'<rect width="8" height="8" fill="{colour}"/><path{over} d="{path}"/></pattern>'
        )
    return f"<defs>{''.join(made)}</defs>"


def _fills() -> str:
    plain = _TEXTURES[OK][0]
    rules = [f".picture .bar-{OK}{{fill:{plain}}}"]
    rules += [
        f".picture .bar-{outcome}{{fill:url(#{outcome})}}"
        for outcome, (_, path) in _TEXTURES.items()
        if path
    ]
    return "\n".join(rules)


def style() -> str:
    """CSS of a picture on white."""
    return f"{STYLE}\n{_fills()}"


# --- layout --------------------------------------------------------------------------------------

WIDTH = 1240
_LABEL_X, _NAME_X, _PLOT_X, _PLOT_END = 12, 286, 294, 1136
_BAR, _BAR_STEP, _NOTE, _ROW_GAP, _ROW_LEAST = 14, 17, 14, 7, 32
_STRIP, _ANGLE, _LABEL_GAP = 134, -48, 15.0
_HEAD, _AXIS, _LEGEND_LINE = 48, 44, 18
_LEAST_BROKEN = 4.0
"""In px: what is broken is never thinner than can be seen."""

_FARTHEST = 75
"""In px: a name that stands farther from its moment is not read as its name."""

_TELLING = (
    *("kvm_arch_vcpu_ioctl_run", "kvm_vgic_flush_hwstate", "kvm_arch_vcpu_put", "__guest_enter"),
    *("kvm_arm_setup_debug", "kvm_arm_clear_debug", "kvm_vcpu_load_debug", "__kvm_adjust_pc"),
)
"""Functions that tell where in a step L1 is, and those that make PSTATE.SS and MDSCR_EL1.SS."""

_LABEL_CHARACTERS, _NAME_CHARACTERS = 30, 14
_CHARACTER = 6.0
"""Width of a character in px, about: SVG can't measure text."""


@dataclass(frozen=True)
class Scale:
    """Linear: 0 to ``last_ns`` of virtual time over the plot's width, in px."""

    last_ns: int
    begin: float = _PLOT_X
    end: float = _PLOT_END

    def x(self, at_ns: float) -> float:
        """Where a moment lies."""
        return self.begin + (self.end - self.begin) * at_ns / self.last_ns

    def ticks(self, at_most: int = 10) -> Iterator[int]:
        """Round moments: 1, 2 or 5 times a power of ten ns apart."""
        least = max(1.0, self.last_ns / at_most)
        power = 10 ** floor(log10(least))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
        return iter(range(0, self.last_ns + 1, int(step)))


def spread(wanted: Sequence[float], gap: float, begin: float, end: float) -> list[float]:
    """Places for labels: in order, at least ``gap`` apart, and together as near to the ``wanted``
    ones (ascending) as can be, inside ``begin`` to ``end`` if they fit there at all.

    Labels that would overlap form a block around their mean (pool adjacent violators).
    """
    blocks: list[tuple[float, int]] = []
    for index, place in enumerate(wanted):
        block, size = place - index * gap, 1
        while blocks and blocks[-1][0] > block:
            before, count = blocks.pop()
            block = (before * count + block * size) / (count + size)
            size += count
        blocks.append((block, size))
    most = max(begin, end - gap * (len(wanted) - 1))
    shifted = [min(max(block, begin), most) for block, size in blocks for _ in range(size)]
    return [place + index * gap for index, place in enumerate(shifted)]


# --- drawing -------------------------------------------------------------------------------------


def svg(picture: Picture, *, alone: bool = True) -> str:
    """A picture as SVG.

    :param alone: as a file of its own, on white; else for a page that has :func:`style` and
        :func:`textures`.
    """
    scale = Scale(picture.last_ns)
    body, height = _body(picture, scale)
    title = escape(printable(picture.name))
    own = f"<style>{style()}</style>{textures()}" if alone else ""
    paper = f'<rect width="{WIDTH}" height="{height:g}" fill="#fff"/>' if alone else ""
    # A phone shows it at its natural size, and scrolls.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="picture" role="group" width="{WIDTH}" '
        f'height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"><title>{title}</title>'
        f"{own}{paper}{''.join(body)}</svg>"
    )


def _body(picture: Picture, scale: Scale) -> tuple[list[str], float]:
    drawn: list[str] = [
        _text(_LABEL_X, 20, picture.name, "strong"),
        _text(_LABEL_X, 36, _subtitle(picture), "quiet"),
    ]
    top = y = float(_HEAD)
    known: set[tuple[str, ...]] = set()
    rows: list[str] = []
    for instruction in picture.instructions:
        strip = _strip_of(picture, instruction, known)
        if strip:
            rows += _strip(strip, scale, y)
            y += _STRIP
        begin = y
        rows += _label(instruction, y)
        for side in picture.sides:
            one = side.of(instruction.address)
            rows += _bar(side.kernel, one, scale, y)
            y += _BAR_STEP
            if one and broken_spans(one):
                rows += _edges(one, scale, y)
                y += _NOTE
        y = max(y, begin + _ROW_LEAST) + _ROW_GAP
    drawn += _grid(scale, top, y)
    drawn += rows
    drawn += _axis(scale, y)
    y += _AXIS
    legend, lines = _legend(picture, y)
    return drawn + legend, y + lines * _LEGEND_LINE + 8


def _subtitle(picture: Picture) -> str:
    told = [side.kernel for side in picture.sides if any(one.landmarks for one in side.maps)]
    path = f"; above a row: the way of {told[0]} through a quiet step" if told else ""
    return f"what came of an interrupt delivered at each ns of a step{path}"


def _grid(scale: Scale, top: float, bottom: float) -> Iterator[str]:
    for tick in scale.ticks():
        yield _line(scale.x(tick), top, scale.x(tick), bottom, "grid")


def _axis(scale: Scale, y: float) -> Iterator[str]:
    yield _line(_PLOT_X, y, _PLOT_END, y, "axis")
    for tick in scale.ticks():
        x = scale.x(tick)
        yield _line(x, y, x, y + 5, "axis")
        yield _text(x, y + 17, f"{tick:,}", anchor="middle")
    middle = (_PLOT_X + _PLOT_END) / 2
    yield _text(middle, y + 33, "ns from the entry into KVM_RUN", "quiet", anchor="middle")


def _label(instruction: Instruction, y: float) -> Iterator[str]:
    name = f"{instruction.label}"
    yield _text(_LABEL_X, y + 11, _cut(name, _LABEL_CHARACTERS - 2), "strong", full=name)
    text = _cut(instruction.text, _LABEL_CHARACTERS)
    yield _text(_LABEL_X, y + 26, text, "code quiet", full=instruction.text)


def _bar(kernel: str, one: PlacementMap | None, scale: Scale, y: float) -> Iterator[str]:
    name = _cut(kernel, _NAME_CHARACTERS)
    yield _text(_NAME_X, y + 11, name, "quiet small", anchor="end", full=kernel)
    if one is None:
        yield _text(_PLOT_X, y + 11, "nothing was placed here", "quiet small")
        return
    end = one.window_ns or (one.spans[-1].last_ns + 1 if one.spans else scale.last_ns)
    yield _rect(scale.x(0), scale.x(end), y, UNTRIED)
    narrow: list[str] = []
    for span in sorted(one.spans, key=lambda span: span.outcome != OK):
        left, right = scale.x(span.first_ns), scale.x(span.last_ns + 1)
        least = 1.0 if span.outcome == OK else _LEAST_BROKEN
        looks = f"bar-{span.outcome} sparse" if is_sparse(span) else f"bar-{span.outcome}"
        sentence = span_sentence(kernel, one.instruction, span)
        if right - left >= least:
            yield _rect(left, right, y, looks, sentence)
        else:
            middle = (left + right) / 2
            narrow.append(_rect(middle - least / 2, middle + least / 2, y, looks, sentence))
    for looks, chosen in (("tick", False), ("guest", True)):
        moments = [mark.at_ns for mark in one.landmarks if _is_guest(mark.name) is chosen]
        lines = "".join(f"M{scale.x(at_ns):.1f},{y:g}v{_BAR}" for at_ns in moments)
        if lines:
            yield f'<path class="{looks}" d="{lines}"/>'
    # No landmark may hide a window of some ns.
    yield from narrow
    if one.window_ns:
        x = scale.x(one.window_ns)
        yield _line(x, y - 1.5, x, y + _BAR + 1.5, "end")
        yield _text(x + 5, y + 11, f"{one.window_ns:,}", "quiet small")


def _edges(one: PlacementMap, scale: Scale, y: float) -> Iterator[str]:
    """First and last ns of what is broken, under the bar; what finds no room is counted."""
    room, left_out = float(_PLOT_X), 0
    for span in broken_spans(one):
        words = f"{span.outcome} {ns_range(span)}"
        width = len(words) * _CHARACTER
        x = max(scale.x((span.first_ns + span.last_ns) / 2) - width / 2, room)
        if x + width > WIDTH - 60:
            left_out += 1
            continue
        yield _text(x, y + 8, words, "small strong")
        room = x + width + 8
    if left_out:
        yield _text(WIDTH - 10, y + 8, f"+{left_out} more", "small strong", anchor="end")


# --- landmarks -----------------------------------------------------------------------------------


def _strip_of(
    picture: Picture, instruction: Instruction, known: set[tuple[str, ...]]
) -> tuple[Landmark, ...]:
    """Landmarks to be named above a row: none where a row before took the same path."""
    maps = [side.of(instruction.address) for side in picture.sides]
    landmarks = next((one.landmarks for one in maps if one and one.landmarks), ())
    path = tuple(one.name for one in landmarks)
    if not path or path in known:
        return ()
    known.add(path)
    return landmarks


def _strip(landmarks: tuple[Landmark, ...], scale: Scale, y: float) -> Iterator[str]:
    shown, places = _placed(landmarks, scale)
    bottom = y + _STRIP - 3
    for one, place in zip(shown, places, strict=True):
        x = scale.x(one.at_ns)
        yield f'<path class="lead" d="M{x:.1f},{bottom:g}v-3L{place:.1f},{bottom - 12:g}v-3"/>'
        looks = "small strong" if _is_guest(one.name) else "small"
        words = escape(printable(f"{one.at_ns:,} {one.name}"))
        turn = f"translate({place + 3:.1f} {bottom - 16:g})rotate({_ANGLE})"
        yield f'<text class="{looks}" transform="{turn}">{words}</text>'


def _placed(
    landmarks: tuple[Landmark, ...], scale: Scale
) -> tuple[tuple[Landmark, ...], list[float]]:
    """As many names as stay near to their moments, and where they go."""
    most = int((_PLOT_END - _PLOT_X) / _LABEL_GAP)
    for room in range(most, 0, -1):
        shown = named(landmarks, room)
        wanted = [scale.x(one.at_ns) for one in shown]
        places = spread(wanted, _LABEL_GAP, _PLOT_X + 2, _PLOT_END)
        if all(abs(x - place) <= _FARTHEST for x, place in zip(wanted, places, strict=True)):
            break
    return shown, places


def named(landmarks: tuple[Landmark, ...], room: int) -> tuple[Landmark, ...]:
    """Those that get a name where there is room for so many, ascending in time.

    The guest's entries and exits come first, then the functions that served an exit, then those
    that make the step's state. An exit right after its entry shares its name.
    """
    merged: list[Landmark] = []
    for one in landmarks:
        before = merged[-1] if merged else None
        at_once = before and before.name == GUEST_ENTRY and one.at_ns - before.at_ns < 10
        if before and at_once and one.name == GUEST_EXIT:
            merged[-1] = Landmark(before.at_ns, "guest entry, exit")
        else:
            merged.append(one)
    kept = sorted(merged, key=lambda one: _rank(one.name))[:room]
    return tuple(sorted(kept, key=lambda one: one.at_ns))


def _rank(name: str) -> int:
    if _is_guest(name):
        return 0
    return 1 if name in EXIT_HANDLERS else 2 if name in _TELLING else 3


def _is_guest(name: str) -> bool:
    return name.startswith("guest ")


# --- legend --------------------------------------------------------------------------------------


def _legend(picture: Picture, y: float) -> tuple[list[str], int]:
    spans = [span for side in picture.sides for one in side.maps for span in one.spans]
    seen = {span.outcome for span in spans}
    entries = [
        (f"bar-{one}", MEANINGS.get(one, str(one)))
        for one in (OK, *(kind for kind in _TEXTURES if kind != OK))
        if one in seen
    ]
    entries.append((UNTRIED, MEANINGS[UNTRIED]))
    if any(is_sparse(span) for span in spans):
        entries.append(("bar-ok sparse", "fainter: not every ns was tried"))
    if any(one.landmarks for side in picture.sides for one in side.maps):
        entries.append(("guest", "the guest is entered, and left again, in a quiet run"))
    entries.append(("end", "return from KVM_RUN in a quiet run"))
    drawn: list[str] = []
    x, line = float(_LABEL_X), 0
    for looks, words in entries:
        width = 30 + len(words) * _CHARACTER
        if x > _LABEL_X and x + width > WIDTH:
            x, line = float(_LABEL_X), line + 1
        top = y + line * _LEGEND_LINE
        if looks in ("guest", "end"):
            drawn.append(_line(x + 9, top - 1, x + 9, top + 13, looks))
        else:
            drawn.append(_rect(x, x + 18, top, looks, height=12))
        drawn.append(_text(x + 24, top + 10, words, "quiet"))
        x += width + 14
    return drawn, line + 1


# --- elements ------------------------------------------------------------------------------------


def _text(
    x: float, y: float, words: str, looks: str = "", *, anchor: str = "", full: str = ""
) -> str:
    """:param full: what the words were before they were cut; shown on hovering."""
    attributes = f' class="{looks}"' if looks else ""
    attributes += f' text-anchor="{anchor}"' if anchor else ""
    title = f"<title>{escape(printable(full))}</title>" if full and full != words else ""
    return f'<text x="{x:g}" y="{y:g}"{attributes}>{title}{escape(printable(words))}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, looks: str) -> str:
    return f'<path class="{looks}" d="M{x1:.1f},{y1:g}L{x2:.1f},{y2:g}"/>'


def _rect(
    left: float, right: float, y: float, looks: str, title: str = "", *, height: float = _BAR
) -> str:
    place = f'x="{left:.1f}" y="{y:g}" width="{max(right - left, 0):.1f}" height="{height:g}"'
    if not title:
        return f'<rect class="{looks}" {place}/>'
    named_so = quoteattr(printable(title))
    return (
        f'<rect class="{looks}" {place} tabindex="0" role="img" aria-label={named_so}>'
        f"<title>{escape(printable(title))}</title></rect>"
    )


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"
