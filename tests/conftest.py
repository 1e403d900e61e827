"""For all tests: what a test's process inherits from whoever started it must not matter."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

# A shell without job control starts what it puts into the background with SIGINT ignored, and
# children inherit that (POSIX, Shell Command Language, 2.11), and so they do what nohup(1) ignores;
# tests send both to theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Runs of tests are nobody's nights.
_ledgers = tempfile.mkdtemp(prefix="qemu-diff-ledger-")
atexit.register(shutil.rmtree, _ledgers, ignore_errors=True)
os.environ["QEMU_DIFF_LEDGER"] = f"{_ledgers}/ledger.sqlite3"
