"""Kernels: a source, patches and kconfig fragments in; ``Image`` and ``vmlinux`` out.

The flow: :mod:`source` finds a Debian package (:mod:`debian`) or a user's tree (:mod:`checkout`)
and makes an isolated copy (:mod:`tree`); :mod:`patch` works out what a variant's patches make of
it, and the tree is switched to that; :mod:`kconfig` decides the configuration; :mod:`make` runs
tuxmake; :mod:`build` puts it together and :mod:`cache` keeps the result by its content. An image
that is built already (:mod:`image`), by Debian too (:mod:`debian_image`), takes a short way. What
Debian packages there are is :mod:`apt`'s to find out, in any suite.
"""

from .build import build_kernel, kernel_key
from .by_key import cached_build, given_build, image_build
from .cache import CachedKernel, PruneReport, cache_directory, cache_root, cached_kernels, prune
from .ready import kernel_is_ready
from .toolchain import kernel_requirements

__all__ = [
    "CachedKernel",
    "PruneReport",
    "build_kernel",
    "cache_directory",
    "cache_root",
    "cached_build",
    "cached_kernels",
    "given_build",
    "image_build",
    "kernel_is_ready",
    "kernel_key",
    "kernel_requirements",
    "prune",
]
