"""The picture: well-formed, whole, in scale, and nobody's labels act in it."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from placed import HOSTILE, LOST, NOP, OUTCOMES, PATH, QUICKSTART, READ, compared, placed, spans

from qemu_diff.model import Instruction, Landmark, PlacementMap, Span
from qemu_diff.report.picture import (
    Picture,
    Scale,
    Side,
    named,
    pictures,
    span_sentence,
    spread,
    svg,
    textures,
)
from qemu_diff.report.png import png

SVG = "{http://www.w3.org/2000/svg}"


def only(*maps: PlacementMap, kernel: str = "unpatched") -> Picture:
    return Picture("trapped_sysreg.vhe", (Side(kernel, maps),))


def parsed(picture: Picture) -> ElementTree.Element:
    return ElementTree.fromstring(svg(picture))


def sentences(picture: Picture) -> list[str]:
    """What hovering and focusing tell, in drawing order."""
    return [rect.findtext(f"{SVG}title", "") for rect in parsed(picture).iter(f"{SVG}rect")][1:]


def drawn_texts(picture: Picture) -> list[str]:
    return [text.text or "" for text in parsed(picture).iter(f"{SVG}text")]


# --- what is drawn -------------------------------------------------------------------------------


def test_a_scenario_has_one_picture_of_all_its_kernels() -> None:
    (picture,) = pictures(QUICKSTART)
    assert picture.name == "trapped_sysreg.vhe"
    assert [side.kernel for side in picture.sides] == ["unpatched", "patched"]
    assert picture.instructions == (READ, NOP)


def test_the_baseline_is_above_wherever_its_cells_stand() -> None:
    baseline, candidate = QUICKSTART.cells
    turned = replace(QUICKSTART, cells=(candidate, baseline))
    assert [side.kernel for side in pictures(turned)[0].sides] == ["unpatched", "patched"]


def test_cells_that_placed_nothing_have_no_picture() -> None:
    assert pictures(compared(placed("unpatched"), placed("patched"))) == ()


def test_first_and_last_ns_of_what_is_broken_are_printed() -> None:
    assert "lost-step 3,159 to 3,624 ns" in drawn_texts(pictures(QUICKSTART)[0])


def test_each_stretch_can_be_reached_and_tells_what_it_is() -> None:
    (picture,) = pictures(QUICKSTART)
    reachable = [one for one in parsed(picture).iter() if one.get("tabindex") == "0"]
    assert len(reachable) == sum(len(one.spans) for side in picture.sides for one in side.maps)
    told = [one.get("aria-label") for one in reachable]
    assert "unpatched, trapped_read: lost-step at 3,159 to 3,624 ns, every ns tried" in told


def test_what_was_not_tried_at_every_ns_is_fainter() -> None:
    sparse = Span(100, 199, "ok", 40)
    drawn = svg(only(PlacementMap(READ, 300, (sparse,))))
    assert 'class="bar-ok sparse"' in drawn
    assert "40 of 100 ns tried" in drawn
    assert "fainter" in drawn


def test_a_kernel_without_the_instruction_has_an_empty_row() -> None:
    sides = (Side("unpatched", (PlacementMap(READ, 10, ()),)), Side("patched", ()))
    assert "nothing was placed here" in drawn_texts(Picture("p", sides))


def test_every_outcome_has_a_colour_and_a_texture_of_its_own() -> None:
    looks = re.findall(r'id="([\w-]+)".*?fill="(#\w+)"/><path[^>]* d="([^"]+)"', textures())
    assert {outcome for outcome, _, _ in looks} == {*OUTCOMES} - {"ok"}
    assert (
        len({colour for _, colour, _ in looks}) == len({path for *_, path in looks}) == len(looks)
    )


@given(st.lists(spans(), min_size=1, max_size=4))
def test_every_span_is_drawn_inside_the_plot(several: list[tuple[Span, ...]]) -> None:
    maps = tuple(
        PlacementMap(Instruction(4 * row, f"row{row}", "nop"), 0, one)
        for row, one in enumerate(several)
    )
    picture = only(*maps)
    told = sentences(picture)
    for one in maps:
        for span in one.spans:
            assert span_sentence("unpatched", one.instruction, span) in told
    scale = Scale(picture.last_ns)
    for rect in parsed(picture).iter(f"{SVG}rect"):
        if rect.get("tabindex"):
            left = float(rect.get("x", "nan"))
            assert scale.begin - 2 <= left
            assert left + float(rect.get("width", "nan")) <= scale.end + 2


# --- landmarks -----------------------------------------------------------------------------------


def landmark_texts(picture: Picture) -> list[str]:
    return [text.text or "" for text in parsed(picture).iter(f"{SVG}text") if text.get("transform")]


def test_landmarks_are_named_in_order_of_time() -> None:
    assert landmark_texts(only(PlacementMap(READ, 4693, (), PATH))) == [
        "307 kvm_arch_vcpu_ioctl_run",
        "2,399 guest entry, exit",
        "2,710 kvm_handle_sys_reg",
        "3,618 guest entry, exit",
        "3,952 kvm_arch_vcpu_put",
    ]


def test_a_path_is_named_above_the_first_row_that_takes_it() -> None:
    later = tuple(Landmark(one.at_ns + 7, one.name) for one in PATH)
    other = (Landmark(2399, "guest entry"),)
    rows = [(READ, PATH), (NOP, later), (Instruction(12, "other", "nop"), other)]
    picture = only(*(PlacementMap(one, 4693, (), path) for one, path in rows))
    assert len(landmark_texts(picture)) == 5 + 1


def test_where_there_is_no_room_the_guest_and_its_handlers_keep_their_names() -> None:
    kept = named(PATH, 3)
    assert [one.name for one in kept] == [
        "guest entry, exit", "kvm_handle_sys_reg", "guest entry, exit",
    ]  # fmt: skip


def test_a_map_without_landmarks_is_drawn_all_the_same() -> None:
    assert landmark_texts(only(PlacementMap(READ, 4693, WHOLE_ROW))) == []


WHOLE_ROW = (Span(0, 4692, "ok", 4693),)


# --- scale and places ----------------------------------------------------------------------------


@given(st.integers(1, 10**9), st.lists(st.integers(0, 10**9), min_size=2, max_size=20))
def test_the_axis_is_linear(last_ns: int, moments: list[int]) -> None:
    scale = Scale(last_ns)
    assert scale.x(0) == scale.begin
    assert scale.x(last_ns) == pytest.approx(scale.end)
    for before, after in pairwise(sorted(moments)):
        apart = (scale.end - scale.begin) * (after - before) / last_ns
        assert scale.x(after) - scale.x(before) == pytest.approx(apart, abs=1e-3)


@given(st.integers(1, 10**9))
def test_ticks_are_few_and_round(last_ns: int) -> None:
    ticks = list(Scale(last_ns).ticks())
    assert 1 <= len(ticks) <= 12
    assert ticks[0] == 0
    if len(ticks) > 1:
        assert str(ticks[1]).rstrip("0") in ("1", "2", "5")


@given(st.lists(st.floats(0, 800), max_size=50).map(sorted), st.floats(1, 15))
def test_labels_keep_their_order_and_their_distance(wanted: list[float], gap: float) -> None:
    places = spread(wanted, gap, 0, 800)
    assert len(places) == len(wanted)
    for before, after in pairwise(places):
        assert after - before >= gap - 1e-6
    if gap * (len(wanted) - 1) <= 800 and places:
        assert places[0] >= -1e-6
        assert places[-1] <= 800 + 1e-6


@given(st.lists(st.integers(0, 50), max_size=20, unique=True).map(sorted))
def test_labels_that_have_room_stay_where_they_belong(wanted: list[int]) -> None:
    places = [16.0 * one for one in wanted]
    assert spread(places, 16.0, 0, 800) == pytest.approx(places)


# --- what others have written --------------------------------------------------------------------


@pytest.mark.parametrize("words", HOSTILE)
def test_labels_are_text_and_nothing_else(words: str) -> None:
    instruction = Instruction(4, words, words)
    landmark = Landmark(5, words)
    spoiled = Picture(
        words, (Side(words, (PlacementMap(instruction, 10, (Span(1, 2, LOST, 2),), (landmark,)),)),)
    )
    root = ElementTree.fromstring(svg(spoiled))
    allowed = {"svg", "title", "style", "defs", "pattern", "rect", "path", "text"}
    assert {one.tag.removeprefix(SVG) for one in root.iter()} <= allowed
    names = {name for one in root.iter() for name in one.attrib}
    assert not [name for name in names if name.startswith("on")]
    assert all(one.isprintable() for text in root.itertext() for one in text if one != "\n")


@given(st.text(), st.text(), st.text())
def test_any_text_makes_well_formed_xml(kernel: str, label: str, text: str) -> None:
    instruction = Instruction(4, label, text)
    ElementTree.fromstring(
        svg(only(PlacementMap(instruction, 10, (Span(1, 2, LOST, 2),)), kernel=kernel))
    )


def test_a_png_is_a_png() -> None:
    assert png(svg(pictures(QUICKSTART)[0])).startswith(b"\x89PNG\r\n")
