"""Writing whole or not at all: success, every kind of failure, kills, full disks, leftovers."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pstmo_edge import files
from pstmo_edge.errors import PstmoEdgeError, UsageError
from pstmo_edge.files import WriteError, sha256_file, write_atomic, write_folder_atomic

STALE = ".{}.0123456789ab{}"


def fill(folder: Path, text: str = "new") -> None:
    (folder / "a").write_text(text)
    (folder / "sub").mkdir()
    (folder / "sub" / "b").write_text(text)


@contextlib.contextmanager
def file_limit(size: int):
    """Make the system refuse files beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    mount = tmp_path / "mount"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(mount)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("mounting needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "model.onnx"
    write_atomic(path, b"old")
    write_atomic(path, lambda file: file.write(b"n") and file.write(b"ew"))
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_the_umask_decides_the_permissions(tmp_path):
    previous = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"")
    finally:
        os.umask(previous)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, MemoryError, SystemExit])
def test_a_failing_writer_leaves_the_old_file(tmp_path, failure):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise failure

    with pytest.raises(failure):
        write_atomic(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize(
    ("code", "phrase"),
    [
        (errno.ENOSPC, "no space left on device; free some space or choose another --out"),
        (errno.EROFS, "read-only file system; choose an --out in a folder you may write to"),
        (errno.EIO, "input/output error; choose another --out"),
    ],
)
def test_refusals_of_the_system_are_one_sentence(tmp_path, monkeypatch, call, code, phrase):
    path = tmp_path / "model.onnx"

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    if call == "open":
        monkeypatch.setattr(files, "open", refuse, raising=False)
    else:
        monkeypatch.setattr(files.os, call, refuse)
    with pytest.raises(WriteError) as caught:
        write_atomic(path, b"data")
    assert str(caught.value) == f"cannot write {path}: {phrase}"
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_file(tiny_disk):
    path = tiny_disk / "file"
    write_atomic(path, b"old")
    with pytest.raises(WriteError, match="no space left on device; free some space"):
        write_atomic(path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert os.listdir(tiny_disk) == ["file"]


def test_a_full_disk_leaves_the_old_folder(tiny_disk):
    with write_folder_atomic(tiny_disk / "out") as folder:
        fill(folder, "old")
    with pytest.raises(WriteError, match="no space left"), write_folder_atomic(tiny_disk / "out", force=True) as folder:
        (folder / "big").write_bytes(bytes(100_000))
    assert os.listdir(tiny_disk) == ["out"]
    assert (tiny_disk / "out" / "sub" / "b").read_text() == "old"


def test_a_limit_on_file_sizes_leaves_nothing(tmp_path):
    with file_limit(1000), pytest.raises(WriteError, match="file too large"):
        write_atomic(tmp_path / "file", bytes(2000))
    out = tmp_path / "new" / "out"
    with file_limit(1000), pytest.raises(WriteError, match="file too large"), write_folder_atomic(out) as folder:
        (folder / "big").write_bytes(bytes(2000))
    assert os.listdir(tmp_path) == []


def test_impossible_targets(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    for path, phrase in [
        (tmp_path, "it is a folder"),
        (tmp_path / "fifo", "no regular file"),
        (Path("/dev/null"), "no regular file"),
        (Path("/"), "it is a folder"),
        (tmp_path / "none" / "x", "create that folder first"),
        (tmp_path / "file" / "x", "not a directory"),
        (tmp_path / ("x" * 300), "choose a shorter --out"),
    ]:
        with pytest.raises(WriteError, match=phrase):
            write_atomic(path, b"data")
    assert sorted(os.listdir(tmp_path)) == ["fifo", "file"]


def test_a_folder_appears_whole(tmp_path):
    out = tmp_path / "deep" / "er" / "out"
    with write_folder_atomic(out) as folder:
        fill(folder)
        assert not out.exists()
        assert folder.parent == out.parent
    assert (out / "sub" / "b").read_text() == "new"
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, UsageError("no")])
def test_a_failing_block_leaves_nothing(tmp_path, failure):
    out, failures = tmp_path / "a" / "b" / "out", (KeyboardInterrupt, ValueError, UsageError)
    with pytest.raises(failures), write_folder_atomic(out) as folder:  # noqa: PT012
        fill(folder)
        raise failure
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_block_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), write_folder_atomic(tmp_path / "out"):
        open(tmp_path / "missing-source")  # noqa: SIM115
    with pytest.raises(WriteError, match=r"cannot write .*out"), write_folder_atomic(tmp_path / "out") as folder:
        (folder / "none" / "x").write_text("")
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_needs_force(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UsageError, match=r"out exists already; add --force to replace it, or choose another --out"):
        write_folder_atomic(out).__enter__()
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="appeared meanwhile"), write_folder_atomic(out):  # noqa: PT012
        out.mkdir()
        (out / "theirs").write_text("x")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["theirs"]


@pytest.mark.parametrize("swap", [True, False])
def test_force_replaces_the_whole_folder(tmp_path, monkeypatch, swap):
    if not swap:
        monkeypatch.setattr(files, "_swap", lambda one, other: False)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with write_folder_atomic(out, force=True) as folder:
        fill(folder)
        assert (out / "old").exists()
    assert sorted(os.listdir(out)) == ["a", "sub"]
    assert os.listdir(tmp_path) == ["out"]


def test_force_spares_folders_that_are_not_ours(tmp_path):
    out = tmp_path / "home"
    out.mkdir()
    write_folder_atomic(out, force=True, marker="manifest.json").__enter__()  # empty: nothing to lose
    (out / "photo").write_text("x")
    for path in (out, Path("/")):
        with pytest.raises(UsageError):
            write_folder_atomic(path, force=True, marker="manifest.json").__enter__()
    (out / "manifest.json").write_text("{}")
    with write_folder_atomic(out, force=True, marker="manifest.json") as folder:
        fill(folder)
    assert not (out / "photo").exists()


def test_a_kill_between_two_renames_is_mended(tmp_path):
    old = tmp_path / STALE.format("out", files.OLD)
    old.mkdir()
    (old / "a").write_text("old")
    with pytest.raises(UsageError, match="exists already"):
        write_folder_atomic(tmp_path / "out").__enter__()
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_leftovers_of_the_same_target_are_cleared(tmp_path):
    (tmp_path / STALE.format("out", files.PART)).mkdir()
    (tmp_path / STALE.format("out", files.PART) / "half").write_text("x")
    (tmp_path / STALE.format("file", files.PART)).write_text("x")
    others = [STALE.format("outer", files.PART), ".out.part", "out.0123456789ab.part"]
    for name in others:
        (tmp_path / name).write_text("kept")
    with write_folder_atomic(tmp_path / "out") as folder:
        fill(folder)
    write_atomic(tmp_path / "file", b"")
    assert sorted(os.listdir(tmp_path)) == sorted(["file", "out", *others])


def test_what_another_writer_still_holds_is_kept(tmp_path):
    held = tmp_path / STALE.format("file", files.PART)
    with open(held, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomic(tmp_path / "file", b"")
        assert held.exists()
    write_atomic(tmp_path / "file", b"")
    assert not held.exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_kills_leave_the_old_or_the_new(tmp_path, kind):
    script = Path(__file__).with_name("killed_writer.py")
    rounds = os.environ.get("PSTMO_EDGE_KILLS", "60")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, str(script), kind, str(tmp_path), rounds, "7"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    result = json.loads(done.stdout)
    assert result["bad"] == 0, result
    assert result["left"] == [], result
    assert result["midway"] > 0, result  # else no kill hit a write, and the test showed nothing
    assert result["seen"] > 3, result


def test_a_writer_that_is_not_atomic_would_be_noticed(tmp_path):
    """The check of the kill test finds a planted half-written target."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("killed_writer", Path(__file__).with_name("killed_writer.py"))
    killed_writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(killed_writer)
    (tmp_path / "target").write_bytes(killed_writer.content(3)[:-8] + killed_writer.content(4)[:8])
    assert killed_writer.read("file", tmp_path / "target") is None


def test_sha256_file(tmp_path):
    data = os.urandom(files.CHUNK + 17)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_the_error_belongs_to_the_family():
    assert issubclass(WriteError, PstmoEdgeError)
    assert WriteError.exit_status == 1
