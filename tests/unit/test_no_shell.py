"""No command of ours goes through a shell: arguments are lists, whatever is in them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("qemu_diff", "tests") for path in (ROOT / folder).rglob("*.py")
)

SHELLS = {
    "os": {"system", "popen", "spawnl", "spawnlp", "spawnv", "spawnvp"},
    "subprocess": {"getoutput", "getstatusoutput"},
    "asyncio": {"create_subprocess_shell"},
    "commands": {"getoutput"},
}
NAMES = {"sh", "bash", "/bin/sh", "/bin/bash", "dash"}


def shells(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of each call that a shell would read."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        module, _, name = called.rpartition(".")
        if name in SHELLS.get(module, ()):
            yield node.lineno, called
        for keyword in node.keywords:
            false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg == "shell" and not false:
                yield node.lineno, f"{called}(shell=…)"
        first = node.args[0] if node.args else None
        if isinstance(first, ast.List) and len(first.elts) > 1:
            words = [one.value for one in first.elts[:2] if isinstance(one, ast.Constant)]
            if len(words) == 2 and words[0] in NAMES and str(words[1]).startswith("-c"):
                yield node.lineno, f"{called}({words})"
        if name == "spawn" and isinstance(first, ast.JoinedStr):
            # pexpect splits one string as a shell would.
            yield node.lineno, f"{called}(f-string)"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shell_is_asked(path: Path) -> None:
    assert list(shells(ast.parse(path.read_text(), str(path)))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.system('x')",
        "os.popen(f'{x}')",
        "subprocess.run('a | b', shell=True)",
        "subprocess.run(x, shell=wanted)",
        "subprocess.getoutput('x')",
        "subprocess.run(['sh', '-c', x])",
        "asyncio.create_subprocess_shell('x')",
        "pexpect.spawn(f'gdb {x}')",
    ],
)
def test_a_shell_is_seen(code: str) -> None:
    assert len(list(shells(ast.parse(code)))) == 1


SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_stop_at_what_fails(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    assert "eval " not in text
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_quote(script: Path) -> None:
    # pip has put it beside Python, which nobody need have on PATH.
    shellcheck = str(Path(sys.executable).with_name("shellcheck"))
    command = [shellcheck, "--severity=info", "--external-sources", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
