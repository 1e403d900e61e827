"""Hostile input: a valid file that was tampered with, or noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

HUGE = tuple(
    value.to_bytes(size, "little")
    for size in (2, 4, 8)
    for value in (0, 1, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, (1 << 8 * size) - 1)
)
"""Counts, sizes and offsets at the ends of their ranges."""

WORDS = (
    b"..", b"/etc/passwd", b"\0", b"\x1b]0;x\x07", b"</script>", b"{", b"}", b"[", b"]", b'"',
    b"\\", b"\n", b"\r\n", b"=", b",", b"#", b"9" * 5000, b"-1", b"1e999", b"NaN", b"null",
    b"true", b"\xff\xfe", "\u202e".encode(), b"\xed\xa0\x80", b"[" * 2000, b'{"a":' * 2000,
    b"a." * 2000,
)  # fmt: skip
"""Bytes that mean something to a parser."""

MOST_NOISE = 512
MOST_CHANGES = 6


@dataclass(frozen=True)
class Change:
    """One act of tampering.

    :param kind: ``flip``, ``cut``, ``write``, ``insert``, ``remove`` or ``repeat``.
    :param where: of the whole, 0.0 to 1.0.
    :param what: what is written or inserted; as a length, of what is removed or repeated.
    """

    kind: str
    where: float
    what: bytes

    def apply(self, data: bytearray) -> None:
        """Tamper."""
        at = int(self.where * len(data))
        length = len(self.what)
        if self.kind == "flip" and data:
            data[at % len(data)] ^= (self.what or b"\1")[0] or 1
        elif self.kind == "cut":
            del data[at:]
        elif self.kind == "write":
            data[at : at + length] = self.what
        elif self.kind == "insert":
            data[at:at] = self.what
        elif self.kind == "remove":
            del data[at : at + length]
        elif self.kind == "repeat":
            data[at:at] = bytes(data[at : at + 64 * length])


KINDS = ("flip", "cut", "write", "insert", "remove", "repeat")

_what = st.sampled_from((*HUGE, *WORDS)) | st.binary(max_size=16)
_changes = st.lists(
    st.builds(Change, st.sampled_from(KINDS), st.floats(0, 1), _what), max_size=MOST_CHANGES
)


def tampered(seed: bytes, changes: Sequence[Change]) -> bytes:
    """A valid input, after some changes."""
    data = bytearray(seed)
    for change in changes:
        change.apply(data)
    return bytes(data)


def hostile(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Inputs for a parser.

    :param seeds: valid ones.
    """
    return st.builds(tampered, st.sampled_from(seeds), _changes) | st.binary(max_size=MOST_NOISE)
