"""An empty qcow2 image, for QEMU to keep a snapshot of the machine in.

Format: QEMU docs/interop/qcow2.txt. ``qemu-img`` would make one, but not every machine that has
QEMU has it.
"""

from __future__ import annotations

import struct
from pathlib import Path

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
REFCOUNT_ORDER = 4
"""Reference counts of 1 << 4 bits."""

_HEADER = ">4sIQIIQIIQQIIQQQQII"
_REFCOUNT_TABLE, _REFCOUNTS, _L1_TABLE, _END = 1, 2, 3, 4
"""Clusters after the header's."""


def empty_image(path: Path, size: int) -> None:
    """Write an image without content.

    :param size: bytes of its virtual disk.
    :raises OSError: the disk refuses.
    """
    header = struct.pack(
        _HEADER, b"QFI\xfb", 3,
        0, 0,  # no backing file
        CLUSTER_BITS, size, 0,  # not encrypted
        1, _L1_TABLE * CLUSTER,
        _REFCOUNT_TABLE * CLUSTER, 1,
        0, 0,  # no snapshots yet
        0, 0, 0,  # no features
        REFCOUNT_ORDER, struct.calcsize(_HEADER),
    )  # fmt: skip
    image = bytearray(_END * CLUSTER)
    image[: len(header)] = header
    struct.pack_into(">Q", image, _REFCOUNT_TABLE * CLUSTER, _REFCOUNTS * CLUSTER)
    struct.pack_into(f">{_END}H", image, _REFCOUNTS * CLUSTER, *([1] * _END))
    path.write_bytes(image)
