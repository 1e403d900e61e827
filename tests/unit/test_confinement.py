"""What a confined child can't do any more, tried by a child."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from qemu_diff.confinement import Confinement, confine, cut_off, environment, offered

OFFERED = offered()
needs_landlock = pytest.mark.skipif(OFFERED.landlock < 4, reason="no Landlock that knows TCP")
needs_namespaces = pytest.mark.skipif(not OFFERED.no_network, reason="no network namespaces")

Child = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def child(tmp_path: Path) -> Child:
    """Runs Python confined to ``tmp_path / "own"``; 1 MiB is the longest file."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine").touch(mode=0o600)
    confinement = Confinement((own, Path(os.devnull)), 1 << 30, 1 << 20)

    def run(
        code: str | list[str], prepare: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code] if isinstance(code, str) else code,
            preexec_fn=prepare or confine(confinement, os.getpid()),
            capture_output=True,
            text=True,
            check=False,
            cwd=own,
            restore_signals=False,
        )

    return run


def test_own_files_are_written_and_others_read(child: Child, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other's")
    done = child("open('mine', 'w').write(open('../other').read()); open('/dev/null', 'w')")
    assert (done.returncode, done.stderr) == (0, "")
    mine = tmp_path / "own" / "mine"
    assert (mine.read_text(), mine.stat().st_mode & 0o777) == ("other's", 0o600)


@needs_landlock
@pytest.mark.parametrize(
    "code",
    [
        "open('../other', 'w')",
        "open('../new', 'w')",
        "import os; os.truncate('../other', 0)",
        "import os; os.unlink('../other')",
        "import os; os.mkdir('../new')",
        "import os; os.symlink('/', '../new')",
        "import os; os.rename('../other', 'mine')",
        "import os; os.link('../other', 'mine')",
        "import os; os.symlink('../other', 'way'); open('way', 'w')",
        "import socket; socket.socket(socket.AF_UNIX).bind('../new')",
    ],
)
def test_nothing_else_is_changed(child: Child, tmp_path: Path, code: str) -> None:
    (tmp_path / "other").write_text("other's")
    done = child(code)
    assert "Error" in done.stderr.splitlines()[-1]
    assert (tmp_path / "other").read_text() == "other's"
    assert not (tmp_path / "new").exists()


@needs_landlock
@pytest.mark.parametrize(
    "code",
    [
        "os.symlink('../other', 'records.bin')",
        "os.mkfifo('records.bin')",
        "os.mknod('records.bin', 0o600 | stat.S_IFCHR, os.makedev(1, 5))",
        "os.mkdir('records.bin')",
        "open('records.bin', 'w')",
        "os.link('mine', 'records.bin')",
    ],
)
def test_where_we_write_afterwards_are_files(child: Child, tmp_path: Path, code: str) -> None:
    done = child(f"import os, stat; {code}")
    assert "Error" in done.stderr.splitlines()[-1]
    assert not os.path.lexists(tmp_path / "own" / "records.bin")


def test_own_files_are_cut_and_sockets_come_and_go(child: Child) -> None:
    code = (
        "import os, socket; os.truncate('mine', 5); os.unlink('mine'); "
        "socket.socket(socket.AF_UNIX).bind('socket'); os.unlink('socket')"
    )
    assert child(code).stderr == ""


@needs_landlock
def test_no_signal_reaches_others(child: Child) -> None:
    done = child(f"import os; os.kill({os.getpid()}, 0)")
    assert "PermissionError" in done.stderr


@needs_landlock
def test_nothing_listens_on_tcp(child: Child) -> None:
    done = child("import socket; socket.socket().bind(('127.0.0.1', 0))")
    assert "PermissionError" in done.stderr


@needs_namespaces
@pytest.mark.parametrize("prepare", [None, cut_off()])
def test_there_is_no_network(child: Child, prepare: Callable[[], None] | None) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        assert "Error" in child(code, prepare).stderr
        udp = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"
        assert "unreachable" in child(udp, prepare).stderr


def test_a_unix_socket_of_ours_is_reached(child: Child, tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(tmp_path / "own" / "s"))
        server.listen()
        done = child("import socket; socket.socket(socket.AF_UNIX).connect('s')")
    assert done.stderr == ""


def test_privileges_are_gone_for_good(child: Child) -> None:
    status = child("print(open('/proc/self/status').read())").stdout
    assert "NoNewPrivs:\t1" in status
    effective = int(status.partition("CapEff:\t")[2].split()[0], 16)
    assert effective & ~0b110 == 0


def test_a_file_without_an_end_ends_the_child(child: Child, tmp_path: Path) -> None:
    # Python ignores the signal, and so would its child: that would go on without its log.
    done = child(["dd", "if=/dev/zero", "of=mine", "bs=64K", "count=100"])
    assert done.returncode == -signal.SIGXFSZ
    assert (tmp_path / "own" / "mine").stat().st_size == 1 << 20


def test_memory_and_descriptors_have_an_end(child: Child) -> None:
    assert "MemoryError" in child("bytearray(1 << 31)").stderr
    assert "Too many open files" in child("l = [open('/dev/null') for _ in range(1000)]").stderr


def test_a_limit_that_is_lower_already_stays(child: Child) -> None:
    confinement = Confinement((), 1 << 40, 1 << 40)
    prepare = confine(confinement, os.getpid())

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        prepare()

    code = "import resource; print(resource.getrlimit(resource.RLIMIT_FSIZE)[0])"
    assert child(code, lower).stdout == "4096\n"


def test_no_core_is_dumped(child: Child, tmp_path: Path) -> None:
    done = child("import os; os.abort()")
    assert done.returncode == -signal.SIGABRT
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["mine"]


def test_secrets_of_the_environment_stay_here() -> None:
    inherited = {"PATH": "/bin", "GITHUB_TOKEN": "t", "HOME": "/h", "AWS_SECRET_ACCESS_KEY": "k"}
    assert environment(inherited) == {"PATH": "/bin", "HOME": "/h"}
