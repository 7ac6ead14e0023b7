"""What systemd is told, over real sockets."""

import itertools
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from pstmo_edge.app import watchdog
from pstmo_edge.app.watchdog import Watchdog, notify

UNIT = Path(__file__).parents[2] / "examples" / "pstmo-edge.service"


@pytest.fixture(params=["file", "abstract"])
def manager(request, tmp_path, monkeypatch):
    """A socket as systemd's, by which name it is reached."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@pstmo-edge-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(name.replace("@", "\0"))
        channel.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield channel


def nothing_came(channel):
    channel.setblocking(False)
    with pytest.raises(BlockingIOError):
        channel.recv(100)


def test_states_arrive(manager):
    assert notify("READY=1")
    assert manager.recv(100) == b"READY=1"
    dog = Watchdog()
    dog.ready(), dog.stopping()
    assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_signs_of_life_are_as_many_as_needed(manager, monkeypatch):
    now = 100.0
    monkeypatch.setattr(watchdog, "monotonic", lambda: now)
    monkeypatch.setenv("WATCHDOG_USEC", "9000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    dog = Watchdog()
    assert dog.period == 3
    times = []
    for _ in range(300):
        now += 0.04
        dog.beat("25 FPS\nno people")
        manager.setblocking(False)
        try:
            assert manager.recv(100) == b"WATCHDOG=1\nSTATUS=25 FPS no people"
            times.append(now)
        except BlockingIOError:
            pass
    assert len(times) == 4
    assert max(after - before for before, after in itertools.pairwise(times)) < 9 / 2


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "1"}],
)
def test_nobody_watches(manager, monkeypatch, environment):
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    dog = Watchdog()
    dog.beat("25 FPS")
    assert dog.period is None
    nothing_came(manager)


@pytest.mark.parametrize("address", ["", "nowhere", "/nonexistent/socket", "@nobody-listens-here", "/" + "x" * 200])
def test_without_a_manager_nothing_happens(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify("READY=1")


def test_a_manager_that_does_not_read_holds_nobody_up(manager):
    answers = [notify("WATCHDOG=1" + "x" * 1000) for _ in range(3000)]
    assert answers[0]
    assert not answers[-1], "its queue was full and the app went on"


def test_the_unit_asks_for_what_the_app_sends():
    text = UNIT.read_text()
    assert re.search(r"^Type=notify$", text, re.M)
    assert re.search(r"^WatchdogSec=\d+s?$", text, re.M)
    assert re.search(r"^Restart=always$", text, re.M)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: apt-get install systemd")
def test_systemd_accepts_the_unit(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/pstmo-edge/bin/pstmo-edge", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
