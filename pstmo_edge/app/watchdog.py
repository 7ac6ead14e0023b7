"""Tells systemd that the app is ready, alive and what it does (sd_notify(3)), with the standard library alone.

Outside systemd, where NOTIFY_SOCKET is not set, everything here does nothing.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from time import monotonic

SHARE = 3  # signs of life for each WatchdogSec: two of three may be lost


def notify(state: str) -> bool:
    """Send one state, such as "READY=1", and say whether systemd got it.

    Never raises and never waits: a device whose service manager is busy goes on.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        # A leading "@" stands for a name without a file (Linux's abstract sockets).
        channel.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        return True
    return False


class Watchdog:
    """Signs of life, sent where the work is done, so that an app that hangs is restarted.

    Call `beat` once a frame: it sends nothing more often than it must. `status` is the line that `systemctl status`
    shows.
    """

    def __init__(self) -> None:
        self.period = _period()  # seconds between signs of life; None where nobody watches
        self._next = 0.0

    def ready(self) -> None:
        """The app works: call it with the first frame, when camera, detector and engine are known to."""
        notify("READY=1")

    def beat(self, status: str = "") -> None:
        """A frame was done."""
        now = monotonic()
        if self.period is None or now < self._next:
            return
        self._next = now + self.period
        line = status.replace("\n", " ")
        notify("WATCHDOG=1" + (f"\nSTATUS={line}" if line else ""))

    def stopping(self) -> None:
        """The app ends on purpose."""
        notify("STOPPING=1")


def _period() -> float | None:
    """A share of WatchdogSec, where it is meant for this process (sd_watchdog_enabled(3))."""
    text, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not text.isdecimal() or int(text) == 0 or (process is not None and process != str(os.getpid())):
        return None
    return int(text) / 1e6 / SHARE
