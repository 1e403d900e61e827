"""A gdb that is a script: it answers each command of GDB/MI with lines that a test chose."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

DONE = ("^done",)

USUAL: Mapping[str, Sequence[str]] = {
    "-data-list-register-names": ('^done,register-names=["x0","pc","cpsr"]',),
    "-target-select": ('*stopped,frame={addr="0x0",func="entry",args=[]},thread-id="1"',
                       "^connected"),
    "-thread-info": ('^done,threads=[{id="1",target-id="Thread 1.1 (CPU#0)"}],'
                     'current-thread-id="1"',),
    "-data-list-register-values": (
        '^done,register-values=[{number="1",value="0x5a5a0004"},{number="2",value="0x3c5"}]',
    ),
    "-exec-step-instruction": (
        "^running", '*running,thread-id="all"', "(gdb) ",
        '*stopped,reason="end-stepping-range",frame={addr="0x000000005a5a0004",func="entry",'
        'args=[],arch="aarch64"},thread-id="1",stopped-threads="all"',
    ),
}  # fmt: skip
"""What it says if a test says nothing else; to all other commands, ``DONE``."""


def fake_gdb(path: Path, answers: Mapping[str, Sequence[str]]) -> Path:
    """Write the script.

    :param answers: first word of a command → lines. A line ``EXIT n`` ends it, ``HANG`` answers
        nothing; what begins with ``^`` gets the command's token.
    """
    table = json.dumps({**USUAL, **answers})
    path.write_text(f"#!{sys.executable}\n{SCRIPT.replace('TABLE', repr(table))}")
    path.chmod(0o755)
    return path


SCRIPT = r"""
import json, re, sys
table = json.loads(TABLE)
print('=thread-group-added,id="i1"\n(gdb) ', flush=True)
for line in sys.stdin:
    token, word = re.match(r"(\d*)(\S+)", line).groups()
    for one in table.get(word, ["^done"]):
        if one == "HANG":
            continue
        if one.startswith("EXIT"):
            sys.exit(int(one[5:]))
        print((token if one.startswith("^") else "") + one, flush=True)
"""
