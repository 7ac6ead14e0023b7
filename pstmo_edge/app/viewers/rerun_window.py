"""rerun's window on this machine.

rerun's own `spawn` waits without end where there is no window system, cannot be interrupted then, finds its program
only where PATH names it, and listens on all addresses: whoever reaches the machine would see through its camera.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO

HOST, PORT = "127.0.0.1", 9876  # rerun's usual port: a window that is open already is used again
_WAIT, _SETTLE = 20.0, 0.5  # seconds to open; that it must live on, for it listens before it looks for a display
_COMMAND = (
    sys.executable, "-m", "rerun_cli", f"--bind={HOST}", "--memory-limit=25%",
    "--server-memory-limit=1GiB", "--hide-welcome-screen", "--expect-data-soon",
)  # fmt: skip


def open_window() -> str:
    """The address of a window that is there or is opened; it stays when this program ends.

    Raises OSError with the reason where none opens.
    """
    if not _listens():
        with tempfile.TemporaryFile("w+") as told:
            _start(told)
    return f"rerun+http://{HOST}:{PORT}/proxy"


def _start(told: IO[str]) -> None:
    program = subprocess.Popen(
        (*_COMMAND, f"--port={PORT}"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=told, start_new_session=True,
    )  # fmt: skip
    ends, listened = time.monotonic() + _WAIT, 0.0
    while program.poll() is None:
        now = time.monotonic()
        listened = listened or (now if _listens() else 0.0)
        if listened and now >= listened + _SETTLE:
            return
        if now >= ends:
            program.kill()
            program.wait()
            raise OSError(f"it did not open in {_WAIT:.0f} s")
        time.sleep(0.05)
    told.seek(0)
    lines = told.read().strip().splitlines()
    reason = re.sub(r"^Error: |os error at \S+ |\.$", "", lines[-1]) if lines else f"it left with {program.returncode}"
    raise OSError(reason)


def _listens() -> bool:
    try:
        socket.create_connection((HOST, PORT), timeout=1).close()
    except OSError:
        return False
    return True
