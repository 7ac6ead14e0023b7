"""How every artifact of the project reaches the disk: whole or not at all, whatever happens in between.

A temporary sibling is written, synced and renamed, then the folder is synced. A failure removes the sibling; a kill
leaves one that the next write to the same target recognises (its lock is free) and clears away.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import PstmoEdgeError, UsageError

PART = ".part"  # a target being written, or an old one about to be removed
OLD = ".old"  # the previous folder, for the moment in which a file system without an atomic swap has no target
CHUNK = 1 << 20

_WAYS_OUT = {
    errno.ENOSPC: "free some space or choose another --out",
    errno.EDQUOT: "free some of your quota or choose another --out",
    errno.EFBIG: "raise the limit on file sizes or choose another --out",
    errno.EACCES: "choose an --out in a folder you may write to",
    errno.EPERM: "choose an --out in a folder you may write to",
    errno.EROFS: "choose an --out in a folder you may write to",
    errno.ENOENT: "create that folder first or choose another --out",
    errno.ENAMETOOLONG: "choose a shorter --out",
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class WriteError(PstmoEdgeError):
    """An artifact that could not be written; nothing of it is left behind."""


def write_atomic(path: str | os.PathLike[str], data: bytes | Callable[[BinaryIO], None], *, sweep: bool = True) -> None:
    """Write a file so that `path` holds, at every moment and after any crash, its old content or all of the new.

    `data` is the content, or a function that writes it into the open binary file. Raises WriteError; what `data`
    raises besides OSError passes through. The folder must exist. Permissions follow the umask. Without `sweep` the
    folder is not searched for what killed writers left, which costs a listing: see `clear_leftovers`.
    """
    with _reported(path):
        target = _real(path)
        _refuse_special(Path(path), target)
        if sweep:
            _clear_leftovers(target)
        part = target.with_name(_sibling(target, PART))
        try:
            with open(part, "xb") as file:
                _lock(file.fileno())
                _write_synced(file, data)
                os.replace(part, target)  # before the lock ends with the file: no other writer may clear it away
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        _sync_folder(target.parent)


@contextmanager
def write_folder_atomic(out: str | os.PathLike[str], force: bool = False, marker: str | None = None) -> Iterator[Path]:
    """Give an empty temporary folder that becomes `out` when the block ends, and vanishes when the block raises.

    Folders missing above `out` are made. An `out` that exists raises UsageError unless `force` is set; then the old
    folder is swapped out in one step and only then removed. With `marker`, `force` replaces only an empty folder or
    one that holds a file of that name: a mistyped --out must not cost a user a folder of their own. Raises WriteError.
    """
    target = _real(out)
    with _reported(out):
        _restore(target)
        _refuse_existing(Path(out), target, force, marker)
        _clear_leftovers(target)
    with _parents(Path(out), target.parent):
        with _reported(out):
            staging, lock = _make_staging(target)
        try:
            with _reported(out, within=staging):
                yield staging
            with _reported(out):
                _sync_tree(staging)
                _publish(staging, target, Path(out), force)
        finally:  # on success the staging name is free, or holds what `force` swapped out
            shutil.rmtree(staging, ignore_errors=True)
            os.close(lock)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed writers left in `folder` and below, of whatever file; for folders of our own alone."""
    pattern = re.compile(r"\..{1,120}\.[0-9a-f]{12}" + re.escape(PART))
    for root, _, names in os.walk(folder):
        for name in filter(pattern.fullmatch, names):
            with suppress(OSError):
                _remove_unlocked(Path(root, name))


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits, read in pieces of 1 MiB; raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _reported(path: str | os.PathLike[str], within: Path | None = None) -> Iterator[None]:
    """Turn the system's refusals into WriteError; with `within`, only a full disk and refusals inside that folder."""
    try:
        yield
    except OSError as error:
        if within is None or error.errno in _FULL or str(error.filename or "").startswith(str(within)):
            raise _write_error(path, error) from error
        raise


def _write_error(path: str | os.PathLike[str], error: OSError) -> WriteError:
    reason = (error.strerror or type(error).__name__).lower()
    way_out = _WAYS_OUT.get(error.errno or 0, "choose another --out")
    return WriteError(f"cannot write {os.fspath(path)}: {reason}; {way_out}")


def _real(path: str | os.PathLike[str]) -> Path:
    # A link is followed once, here: renaming over it would replace the link and leave its target old.
    return Path(os.path.realpath(path))


def _sibling(target: Path, suffix: str) -> str:
    # 120 characters of the name are enough to recognise it and keep the whole under the usual 255 bytes.
    return f".{target.name[:120]}.{secrets.token_hex(6)}{suffix}"


def _siblings(target: Path, suffix: str) -> list[Path]:
    pattern = re.compile(re.escape(f".{target.name[:120]}.") + r"[0-9a-f]{12}" + re.escape(suffix))
    try:
        return [entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)]
    except OSError:
        return []


def _refuse_special(path: Path, target: Path) -> None:
    # Renaming over /dev/null as root would replace the device by a file.
    if target.exists() and not target.is_file():
        kind = "it is a folder" if target.is_dir() else "it is no regular file"
        raise WriteError(f"cannot write {path}: {kind}; choose another --out")


def _write_synced(file: BinaryIO, data: bytes | Callable[[BinaryIO], None]) -> None:
    if callable(data):
        data(file)
    else:
        file.write(data)
    file.flush()
    os.fsync(file.fileno())
    if not callable(data) and os.fstat(file.fileno()).st_size != len(data):
        raise OSError(errno.EIO, "the disk kept fewer bytes than were written")


def _lock(descriptor: int) -> None:
    with suppress(OSError):  # some network file systems have no locks: leftovers there stay until a person removes them
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _clear_leftovers(target: Path) -> None:
    """Remove temporary siblings whose writer is gone, which shows in their lock being free."""
    for leftover in [*_siblings(target, PART), *_siblings(target, OLD)]:
        with suppress(OSError):
            _remove_unlocked(leftover)


def _remove_unlocked(leftover: Path) -> None:
    descriptor = os.open(leftover, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink()
    finally:
        os.close(descriptor)


def _restore(target: Path) -> None:
    # Only where the file system cannot swap: a kill between the two renames left the old folder under its other name.
    if not target.exists():
        for old in _siblings(target, OLD)[:1]:
            os.rename(old, target)


def _refuse_existing(out: Path, target: Path, force: bool, marker: str | None) -> None:
    if not target.exists():
        return
    if not target.is_dir() or target == target.parent:
        raise UsageError(f"{out} exists and cannot be replaced by a folder; choose another --out")
    if not force:
        raise UsageError(f"{out} exists already; add --force to replace it, or choose another --out")
    if marker is not None and any(target.iterdir()) and not (target / marker).is_file():
        raise UsageError(f"{out} holds no {marker}, so --force does not replace it; choose another --out")


@contextmanager
def _parents(out: Path, folder: Path) -> Iterator[None]:
    """Create `folder` and what is missing above it, and take it back when the block raises."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with _reported(out):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise


def _make_staging(target: Path) -> tuple[Path, int]:
    while True:
        staging = target.with_name(_sibling(target, PART))
        staging.mkdir()
        try:
            descriptor = os.open(staging, os.O_RDONLY)
        except FileNotFoundError:
            continue
        _lock(descriptor)
        if staging.exists():  # else another writer took it for a leftover in the instant before it was locked
            return staging, descriptor
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _sync_folder(Path(root))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems sync no folders, and keep order by themselves
            raise
    finally:
        os.close(descriptor)


def _publish(staging: Path, target: Path, out: Path, force: bool) -> None:
    if not target.exists():
        os.rename(staging, target)
    elif not force:
        raise UsageError(f"{out} appeared meanwhile; add --force to replace it, or choose another --out")
    elif not _swap(staging, target):
        old = target.with_name(_sibling(target, OLD))
        os.rename(target, old)
        os.rename(staging, target)
        shutil.rmtree(old, ignore_errors=True)
    _sync_folder(target.parent)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two folders in one step (Linux renameat2); False where kernel, C library or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    at_cwd, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fcntl.h and linux/fs.h
    return bool(renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0)
