"""The TCG plugin, built for one QEMU binary, with the phantom rule that was proven for it."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qemu_diff.errors import InfrastructureError
from qemu_diff.guest.machine import escaped
from qemu_diff.guest.qemu import Qemu, ask
from qemu_diff.guest.toolchain import HOST_COMPILER, compile_cached
from qemu_diff.truth.phantom import PhantomRule
from qemu_diff.truth.selftest import prove_rule, selftest_source

NEWEST_API = 12
"""How far to look for an API version that a QEMU takes; 10.0 is at 4."""

MOST_LANDMARKS = 256
"""What the plugin has room for."""


@dataclass(frozen=True)
class TruthPlugin:
    """A plugin that this QEMU loads.

    :param api: the plugin API version that it was built for.
    :param rule: how its records tell phantoms, as the self-test found.
    """

    library: Path
    api: int
    rule: PhantomRule

    def argument(
        self,
        out: Path,
        capacity: int,
        begin: int,
        end: int,
        marks: tuple[int, ...],
        *,
        landmarks: tuple[int, ...] = (),
    ) -> str:
        """The argument of ``-plugin``.

        :param out: a file of ``truth_bytes(capacity)`` bytes.
        :param capacity: records.
        :param begin: first address of L2's range.
        :param end: address after L2's range.
        :param marks: the step VMM's mark addresses, by number.
        :param landmarks: addresses to record, with a count of instructions, each time they are
            come to; with any, every instruction is counted, which costs time.
        """
        addresses = {"mark": marks, "landmark": landmarks[:MOST_LANDMARKS]}
        numbered = "".join(
            f",{kind}{number}={address:#x}"
            for kind, those in addresses.items()
            for number, address in enumerate(those)
        )
        return (
            f"file={escaped(self.library)},out={escaped(out)},capacity={capacity}"
            f",begin={begin:#x},end={end:#x}{numbered}"
        )


def prepare_plugin(qemu: Qemu, guest_images: Path, cache: Path) -> TruthPlugin:
    """The plugin for a QEMU binary; built and proven once, then taken from the cache.

    :raises MissingToolError: a compiler is missing.
    :raises CompileError: it refuses.
    :raises NoPhantomRuleError: no rule holds on this QEMU.
    :raises InfrastructureError: QEMU takes no version of the plugin.
    """
    library, api = _matching_library(qemu, guest_images, cache)
    proof = library.with_name(f"{qemu.identity}.{_rules_identity(guest_images)}.rule.json")
    # A proof that can't be read is none.
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        rule = PhantomRule(json.loads(proof.read_text())["rule"])
        return TruthPlugin(library, api, rule)
    unproven = TruthPlugin(library, api, PhantomRule.INSN_SIZE)
    rule = prove_rule(qemu, unproven.argument, guest_images, cache)
    scratch = proof.with_name(f"{proof.name}.{os.getpid()}")
    scratch.write_text(json.dumps({"rule": rule.value, "api": api}))
    scratch.replace(proof)
    return TruthPlugin(library, api, rule)


def _rules_identity(guest_images: Path) -> str:
    """What a proof depends on beside the binary and the plugin."""
    here = Path(__file__)
    digest = hashlib.blake2b(digest_size=8)
    for source in (
        selftest_source(guest_images),
        here.with_name("selftest.py"),
        here.with_name("phantom.py"),
    ):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _matching_library(qemu: Qemu, guest_images: Path, cache: Path) -> tuple[Path, int]:
    refusal = ""
    for api in range(1, NEWEST_API + 1):
        library = _build(api, guest_images, cache)
        refusal = _load(qemu, library)
        if not refusal:
            return library, api
    raise InfrastructureError(f"{qemu.program} takes no version of the truth plugin: {refusal}")


def _build(api: int, guest_images: Path, cache: Path) -> Path:
    include = guest_images / "include"
    return compile_cached(
        [
            HOST_COMPILER, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared",
            "-fvisibility=hidden", f"-I{include}", f"-DPLUGIN_API={api}",
        ],
        sources=[Path(__file__).with_name("plugin.c")],
        inputs=sorted(include.glob("*.h")),
        cache=cache / "truth",
        name="truth.so",
    )  # fmt: skip


def _load(qemu: Qemu, library: Path) -> str:
    """Load the plugin without arguments; the refusal's text, or nothing."""
    answer = ask(
        qemu.program, "-M", "none", "-display", "none", "-plugin", f"file={escaped(library)}"
    )
    if answer.status == 0 and answer.text.startswith("qemu-diff plugin: api "):
        return ""
    return answer.complaint
