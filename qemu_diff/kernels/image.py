"""Kernels that are built already: an arm64 ``Image`` and its ``vmlinux``."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from pathlib import Path

from qemu_diff.regular_file import opened

from ..errors import SourceError
from ..model import Build, ImageSource
from . import cache

# Linux: Documentation/arm64/booting.rst, "decompressed kernel image": u32 magic at offset 56.
_MAGIC_OFFSET = 0x38
_MAGIC = b"ARM\x64"
_GZIP_MAGIC = b"\x1f\x8b"
# Linux: drivers/firmware/efi/libstub/zboot-header.S
_ZBOOT_MAGIC = b"MZ\x00\x00zimg"

_ELF_MAGIC = b"\x7fELF"
_EM_AARCH64 = 183

# Linux: init/version.c, linux_banner
_BANNER = re.compile(rb"Linux version (\S+) \(")


def ready_build(kernel: str, source: ImageSource) -> Build:
    """A build from files that the user has.

    A gzip-compressed image is decompressed into the cache; all else is used where it is.

    :raise SourceError: a file is missing, or is not what it should be.
    """
    content = _read(source.image)
    if source.vmlinux is not None:
        _check_vmlinux(source.vmlinux)
    compressed = content.startswith(_GZIP_MAGIC)
    if compressed:
        content = _decompress(source.image, content)
    _check_image(source.image, content)
    key = image_key(content)
    release = _release(content)
    image = _store(kernel, key, release, content) if compressed else source.image
    return Build(
        kernel=kernel,
        key=key,
        image=image,
        vmlinux=source.vmlinux,
        config=None,
        log=None,
        release=release,
        cached=True,
        duration_s=0.0,
    )


def image_key(content: bytes) -> str:
    """The key of a decompressed image."""
    return hashlib.sha256(b"image\0" + content).hexdigest()[:20]


def source_key(source: ImageSource) -> str:
    """The key of an image file.

    :raise SourceError: it can't be read or decompressed.
    """
    content = _read(source.image)
    if content.startswith(_GZIP_MAGIC):
        content = _decompress(source.image, content)
    return image_key(content)


def _read(path: Path) -> bytes:
    try:
        with opened(path) as file:
            return file.read()
    except OSError as error:
        raise SourceError(f"{path}: can't read the kernel image: {error.strerror}") from error


def _decompress(path: Path, content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: can't be decompressed: {error}") from error


def _check_image(path: Path, content: bytes) -> None:
    if content[_MAGIC_OFFSET : _MAGIC_OFFSET + len(_MAGIC)] == _MAGIC:
        return
    if content.startswith(_ZBOOT_MAGIC):
        raise SourceError(
            f"{path}: an EFI zboot image, which only UEFI firmware can boot; "
            "give the Image that it was made from (arch/arm64/boot/Image)"
        )
    hint = "; give arch/arm64/boot/Image, and the vmlinux as vmlinux"
    raise SourceError(
        f"{path}: not an arm64 kernel image" + (hint if content.startswith(_ELF_MAGIC) else "")
    )


def _check_vmlinux(path: Path) -> None:
    try:
        with opened(path) as stream:
            header = stream.read(20)
    except OSError as error:
        raise SourceError(f"{path}: can't read the vmlinux: {error.strerror}") from error
    # ELF64: e_machine is a halfword at offset 18.
    if not header.startswith(_ELF_MAGIC) or int.from_bytes(header[18:20], "little") != _EM_AARCH64:
        raise SourceError(f"{path}: not an arm64 vmlinux (an ELF file for AArch64)")


def _release(content: bytes) -> str:
    match = _BANNER.search(content)
    return match[1].decode(errors="replace") if match else "unknown"


def _store(kernel: str, key: str, release: str, content: bytes) -> Path:
    """Put a decompressed image into the cache."""
    metadata = cache.find(key)
    if metadata is None:
        metadata = cache.KernelMetadata(key, (kernel,), release, source="image")
        metadata = cache.publish(metadata, {"Image": content})
    cache.note_use(metadata, kernel)
    return cache.entry_directory(key) / "Image"
