"""Open many hostile files, each in a forked child of one process that has torch: a file costs 20 ms instead of 2 s.

`python import_many.py IMPORT_CHILD FOLDER [--planted]` runs the importer's `run`, limits and all, on every file of
FOLDER, writes each answer beside it as NAME.answer, and prints the exit statuses by name as JSON. With --planted the
importer's torch.load is allowed to run code: the test that uses it must notice.
"""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

SECONDS = 30


def load_importer(path: str):
    spec = importlib.util.spec_from_file_location("import_child", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plant(torch) -> None:
    load = torch.load
    torch.load = lambda file, **kwargs: load(file, **{**kwargs, "weights_only": False})


def open_one(importer, path: Path) -> int:
    """The exit status of the child that opened `path`: 0, or the negative number of the signal that ended it."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        status = 1
        try:
            source = os.open(path, os.O_RDONLY)
            importer.run(source, os.open(f"{path}.answer", os.O_WRONLY | os.O_CREAT), 10)
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -9


def main() -> None:
    importer = load_importer(sys.argv[1])
    importer.import_libraries()
    if "--planted" in sys.argv:
        plant(sys.modules["torch"])
    paths = sorted(Path(sys.argv[2]).iterdir())
    print(json.dumps({path.name: open_one(importer, path) for path in paths}))


if __name__ == "__main__":
    main()
