"""What the plugin is told."""

from __future__ import annotations

import re
from pathlib import Path

from qemu_diff.truth import plugin
from qemu_diff.truth.phantom import PhantomRule
from qemu_diff.truth.plugin import MOST_LANDMARKS, TruthPlugin

PLUGIN = TruthPlugin(Path("/cache/truth.so"), 1, PhantomRule.INSN_SIZE)
SOURCE = Path(plugin.__file__).with_name("plugin.c")


def argument(*landmarks: int) -> str:
    return PLUGIN.argument(Path("/out"), 8, 0x1000, 0x2000, (0x10, 0x20), landmarks=landmarks)


def test_landmarks_are_numbered_after_the_marks() -> None:
    plain = argument()
    assert plain.endswith(",begin=0x1000,end=0x2000,mark0=0x10,mark1=0x20")
    assert argument(0xFFFFFFC008000000) == f"{plain},landmark0=0xffffffc008000000"


def test_no_more_landmarks_are_asked_for_than_the_plugin_has_room_for() -> None:
    told = argument(*range(4, 4 * MOST_LANDMARKS + 40, 4))
    assert told.count("landmark") == MOST_LANDMARKS
    room = re.search(r"#define LANDMARKS\s+(\d+)", SOURCE.read_text())
    assert room
    assert int(room[1]) == MOST_LANDMARKS
