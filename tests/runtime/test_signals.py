"""SIGINT and SIGTERM at any moment: one line, 130 or 143, no orphans, nothing half-written."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LINE = "stopped by {}\n"

#: A command that writes files, holds a temporary folder and has a child.
BUSY = """
import sys, tempfile, time
from pathlib import Path
from quantcore.runtime.signals import ending
with ending():
    from quantcore.runtime.files import write_whole
    from quantcore.runtime.progress import Silent
    from quantcore.runtime.worker import Worker
    out = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(dir=out), Worker("job") as worker:
        (out / "pids").write_text(f"{worker._process.pid}")
        print("ready", flush=True)
        while True:
            write_whole(out / "result", b"x" * 1_000_000)
"""

#: One whose main thread is in a call that no exception reaches.
STUCK = """
import ctypes
from quantcore.runtime import signals
signals.GRACE = 0.3
with signals.ending():
    print("ready", flush=True)
    while True:
        try:
            ctypes.CDLL(None).sleep(60)
        except BaseException:
            pass
"""

#: The whole way into a command: `quantcore.__main__`, the command line, the command.
RUNNING = """
import time
import quantcore.__main__ as start
from quantcore.commands import cli

def command(**options):
    print("in", flush=True)
    time.sleep(60)

cli.app = command
start.main()
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_everything_goes_with_it(tmp_path: Path, number: signal.Signals) -> None:
    process = start(BUSY, tmp_path)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    time.sleep(random.Random(number).random() * 0.3)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (128 + number, LINE.format(number.name))
    assert not alive(int((tmp_path / "pids").read_text()))
    left = {path.name for path in tmp_path.iterdir()} - {"pids"}
    assert left <= {"result"}
    assert (tmp_path / "result").stat().st_size == 1_000_000


def test_a_child_leaves_when_its_parent_is_killed(tmp_path: Path) -> None:
    process = start(BUSY, tmp_path)
    assert process.stdout
    process.stdout.readline()
    child = int((tmp_path / "pids").read_text())
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(child)


def test_what_does_not_end_is_ended() -> None:
    process = start(STUCK)
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (143, LINE.format("SIGTERM"))


def test_while_it_starts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        listening = "import quantcore.__main__ as m; print('on', flush=True); m.main()"
        for delay in (0.02, 0.2, 0.6):
            process = start(f"import sys; sys.argv[1:] = ['demo']; {listening}")
            assert process.stdout
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(number)
            _, said = process.communicate(timeout=30)
            assert (process.returncode, said) == (128 + number, LINE.format(number.name))


def test_a_reader_that_has_left_and_a_full_disk() -> None:
    code = "from quantcore.runtime.signals import ending\nwith ending(): print('x' * 100_000)"
    process = start(code)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 2
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_memory_that_runs_out_is_one_line() -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))"
    code = (
        f"{limit}\nfrom quantcore.runtime.signals import ending\nwith ending(): bytearray(1 << 31)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: there is not enough memory for this\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_runs_says_it_once(number: signal.Signals) -> None:
    process = start(RUNNING)
    assert process.stdout
    assert process.stdout.readline() == "in\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (128 + number, LINE.format(number.name))


def test_handlers_are_put_back() -> None:
    from quantcore.runtime.signals import ending, held

    before = signal.getsignal(signal.SIGTERM)

    def stopped() -> None:
        with ending(), held():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    with pytest.raises(SystemExit) as end:
        stopped()
    assert end.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
