"""Kernels: a source, patches and kconfig fragments in; ``Image`` and ``vmlinux`` out.

The flow: :mod:`source` finds a Debian package (:mod:`debian`), a user's tree (:mod:`checkout`) or a
revision of a git repository (:mod:`repository`, :mod:`git_tree`, :mod:`revert`) and makes an
isolated copy (:mod:`tree`); :mod:`series` reads a variant's patches, :mod:`patch` works out what
they make of it, and the tree is switched to that; :mod:`kconfig` decides the configuration;
:mod:`make` runs tuxmake; :mod:`build` puts it together and :mod:`cache` keeps the result by its
content. An image that is built already (:mod:`image`), by Debian too (:mod:`debian_image`), takes a
short way. What Debian packages there are is :mod:`apt`'s to find out, in any suite.
"""

from ..errors import (
    KconfigError,
    KernelBuildError,
    NotLinuxError,
    PatchError,
    RevertError,
)
from .build import build_kernel, kernel_key
from .by_key import cached_build, given_build, image_build
from .cache import CachedKernel, PruneReport, cache_directory, cache_root, cached_kernels, prune
from .fetch import fetch_source
from .ready import kernel_is_ready
from .repository import Repository, open_repository, uncommitted
from .series import read_patches
from .source import pinned
from .toolchain import kernel_requirements

#: What is the commit's own matter where a kernel of many commits is built: it can't be tested, and
#: the next may. Every other error would be the same for all of them.
OF_THE_COMMIT = (KernelBuildError, KconfigError, NotLinuxError, PatchError, RevertError)

__all__ = [
    "OF_THE_COMMIT",
    "CachedKernel",
    "PruneReport",
    "Repository",
    "build_kernel",
    "cache_directory",
    "cache_root",
    "cached_build",
    "cached_kernels",
    "fetch_source",
    "given_build",
    "image_build",
    "kernel_is_ready",
    "kernel_key",
    "kernel_requirements",
    "open_repository",
    "pinned",
    "prune",
    "read_patches",
    "uncommitted",
]
