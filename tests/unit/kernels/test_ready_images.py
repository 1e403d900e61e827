"""Images that are built already: taken as they are, or refused for a stated reason."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from qemu_diff.errors import SourceError
from qemu_diff.kernels import build_kernel, cached_kernels, kernel_key
from qemu_diff.model import ImageSource, KernelSpec

IMAGE = bytes(0x38) + b"ARM\x64" + bytes(64) + b"Linux version 6.1.99-test (me@here) #1\n"
ELF = b"\x7fELF" + bytes(14) + (183).to_bytes(2, "little")


def image_spec(image: Path, vmlinux: Path | None = None) -> KernelSpec:
    return KernelSpec("ready", ImageSource(image, vmlinux))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_an_image_is_used_where_it_is(tmp_path: Path) -> None:
    image, vmlinux = write(tmp_path / "Image", IMAGE), write(tmp_path / "vmlinux", ELF)
    build = build_kernel(image_spec(image, vmlinux))
    assert (build.image, build.vmlinux) == (image, vmlinux)
    assert build.release == "6.1.99-test"
    assert build.key == kernel_key(image_spec(image))
    assert cached_kernels() == ()


def test_a_compressed_image_is_decompressed_into_the_cache(tmp_path: Path) -> None:
    image = write(tmp_path / "Image.gz", gzip.compress(IMAGE))
    build = build_kernel(image_spec(image))
    assert build.image.read_bytes() == IMAGE
    assert build.key == kernel_key(image_spec(write(tmp_path / "Image", IMAGE)))
    assert build_kernel(image_spec(image)).image == build.image
    (entry,) = cached_kernels()
    assert (entry.names, entry.release) == (("ready",), "6.1.99-test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an arm64 kernel image"),
        (ELF + bytes(100), "not an arm64 kernel image; give arch/arm64/boot/Image"),
        (b"MZ\0\0zimg" + bytes(100), "EFI zboot image"),
        (gzip.compress(b"something else", mtime=0), "not an arm64 kernel image"),
        (gzip.compress(IMAGE, mtime=0)[:40], "can't be decompressed"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    image = write(tmp_path / "Image", content)
    with pytest.raises(SourceError, match=message):
        build_kernel(image_spec(image))


def test_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Image: can't read the kernel image: No such file"):
        build_kernel(image_spec(tmp_path / "Image"))


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(14) + b"\x3e\0"])
def test_a_vmlinux_of_another_kind(tmp_path: Path, content: bytes) -> None:
    image, vmlinux = write(tmp_path / "Image", IMAGE), write(tmp_path / "vmlinux", content)
    with pytest.raises(SourceError, match="not an arm64 vmlinux"):
        build_kernel(image_spec(image, vmlinux))


def test_an_image_takes_no_patches(tmp_path: Path) -> None:
    spec = KernelSpec("ready", ImageSource(write(tmp_path / "Image", IMAGE)), (tmp_path / "p",))
    with pytest.raises(SourceError, match="patches, reverts and kconfig fragments need a source"):
        build_kernel(spec)
