"""The supervisor, with small processes: what is started again, what stops all, and what is left behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.errors import ConfigurationError, ExpiredError
from workers.supervise import Restarts, stop_when_gone, supervise

ROOT = Path(__file__).parents[2]
QUICK = Restarts(pause=0.05, longest_pause=0.2, healthy=10.0)
SLEEP = "import time; time.sleep(60)"
COUNTED = """
import os, signal, sys
path = sys.argv[1]
with open(path, "a") as file:
    file.write("x")
"""


def command(code: str, *words: object) -> list[str]:
    return [sys.executable, "-S", "-c", textwrap.dedent(code), *map(str, words)]


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not done():
        assert time.monotonic() < deadline, "waited 20 s in vain"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_all_that_end_well_end_it() -> None:
    began = time.monotonic()
    assert supervise([command("pass"), command("import time; time.sleep(0.3)")], threading.Event()) == 0
    assert 0.3 <= time.monotonic() - began < 10
    assert supervise([], threading.Event()) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGRTMIN + 3])
def test_what_a_signal_ended_starts_again(tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture) -> None:
    """Killed twice, then it ends by itself."""
    die = f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), {int(number)})"
    code = COUNTED + f"if os.path.getsize(path) < 3:\n    {die}\n"
    starts: list[tuple[int, int]] = []
    done = supervise(
        [command("pass"), command(code, tmp_path / "count")],
        threading.Event(),
        restarts=QUICK,
        started=lambda place, pid: starts.append((place, pid)),
    )
    assert done == 0
    assert (tmp_path / "count").read_text() == "xxx"
    assert [place for place, _ in starts] == [0, 1, 1, 1]
    said = [record.getMessage() for record in caplog.records]
    name = "signal 37" if number == signal.SIGRTMIN + 3 else signal.Signals(number).name
    assert [f"process {pid} was ended by {name}; it is started again" in text for text, (_, pid) in
            zip(said, starts[1:], strict=False)] == [True, True]  # fmt: skip


def test_one_that_was_declared_dead_starts_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = COUNTED + f"sys.exit({ExpiredError.exit_code} if os.path.getsize(path) < 2 else 0)"
    assert supervise([command(code, tmp_path / "count")], threading.Event(), restarts=QUICK) == 0
    assert (tmp_path / "count").read_text() == "xx"
    assert "was declared dead by its group" in caplog.text


def test_pauses_double_and_are_short_again_after_health(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Six quick deaths, one after a healthy life, one more."""
    code = COUNTED + (
        "import time\n"
        "n = os.path.getsize(path)\n"
        "time.sleep(1.0 if n == 6 else 0)\n"
        "if n < 8:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    caplog.set_level(logging.WARNING)
    restarts = Restarts(pause=0.1, longest_pause=0.4, healthy=0.9)
    assert supervise([command(code, tmp_path / "count")], threading.Event(), restarts=restarts) == 0
    pauses = [record.args[2] for record in caplog.records if isinstance(record.args, tuple)]
    assert pauses == [0.1, 0.2, 0.4, 0.4, 0.4, 0.1, 0.2]


def test_an_error_stops_all(tmp_path: Path) -> None:
    stay = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], "w").close(), sys.exit(0)))
        open(sys.argv[2], "w").close()
        time.sleep(60)
    """
    fail = """
        import os, sys, time
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
        sys.exit(3)
    """
    told, ready = tmp_path / "told", tmp_path / "ready"
    began = time.monotonic()
    assert supervise([command(stay, told, ready), command(fail, ready)], threading.Event()) == 3
    assert ConfigurationError.exit_code == 3
    assert told.exists()  # SIGTERM, and it was waited for
    assert time.monotonic() - began < 30


def test_stop_ends_all_in_good_order(tmp_path: Path) -> None:
    """One that ends well, one that SIGTERM kills before it could handle it, one that waits for its next start."""
    stop = threading.Event()
    polite = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), open(sys.argv[1], "w").close(), sys.exit(0)))
        open(sys.argv[2], "w").close()
        time.sleep(60)
    """
    pids: list[int] = []
    commands = [
        command(polite, tmp_path / "done", tmp_path / "ready"),
        command(SLEEP),
        command("import os; os.kill(os.getpid(), 9)"),
    ]

    def ask() -> None:
        until((tmp_path / "ready").exists)
        stop.set()

    threading.Thread(target=ask).start()
    slow = Restarts(pause=30.0)
    assert supervise(commands, stop, restarts=slow, started=lambda _, pid: pids.append(pid)) == 0
    assert (tmp_path / "done").exists()
    assert len(pids) == 3
    assert not any(map(alive, pids))


def test_an_error_while_stopping_is_told(tmp_path: Path) -> None:
    stop = threading.Event()
    rude = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
        open(sys.argv[1], "w").close()
        time.sleep(60)
    """
    threading.Thread(target=lambda: (until((tmp_path / "ready").exists), stop.set())).start()
    assert supervise([command(rude, tmp_path / "ready")], stop) == 4


def test_a_command_that_cannot_start_leaves_none_running(tmp_path: Path) -> None:
    pids: list[int] = []
    with pytest.raises(FileNotFoundError):
        supervise(
            [command(SLEEP), [str(tmp_path / "none")]],
            threading.Event(),
            started=lambda _, pid: pids.append(pid),
        )
    assert len(pids) == 1
    assert not alive(pids[0])


SUPERVISOR = """
import os, sys, threading
from workers.supervise import supervise
child = sys.argv[1]
supervise([[sys.executable, "-c", child, str(os.getpid()), mood] for mood in ("polite", "deaf")], threading.Event(),
          started=lambda place, pid: os.write(1, b"%d\\n" % pid))
"""
CHILD = """
import os, sys, threading, time
from workers.supervise import stop_when_gone
stop = threading.Event()
stop_when_gone(int(sys.argv[1]), stop, look=0.05, grace=1.0)
os.write(1, b"ready\\n")  # in one piece: it shares the pipe
stop.wait(60) if sys.argv[2] == "polite" else time.sleep(60)
"""


def test_workers_do_not_outlive_a_killed_supervisor() -> None:
    """One stops when it is asked; one that does not is ended."""
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, CHILD],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as supervisor:
        assert supervisor.stdout is not None
        said = [supervisor.stdout.readline().strip() for _ in range(4)]
        pids = [int(text) for text in said if text != "ready"]
        assert len(pids) == 2
        assert all(map(alive, pids))
        supervisor.kill()
        until(lambda: not any(map(alive, pids)))


def test_a_parent_that_was_gone_before_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr(os, "_exit", end)
    stop = threading.Event()
    stop_when_gone(os.getppid() + 1, stop, look=60.0, grace=0.2)
    assert stop.wait(5)
    assert ended.wait(5)
    assert codes == [75]


def test_a_living_parent_stops_nothing() -> None:
    stop = threading.Event()
    stop_when_gone(os.getppid(), stop, look=0.01)
    assert not stop.wait(0.2)
