"""A bundle: a folder with manifest.json beside plain artifacts, written whole or not at all and verified when opened.

Sizes and SHA-256 stop accidents: a changed bit, a missing or foreign file, half a copy. They do not stop an attacker,
who can compute a new digest. Engines that are native code to their runtime need an authenticated check on top.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .errors import BundleError
from .files import CHUNK, write_atomic, write_folder_atomic
from .manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Accuracy,
    BackendSpec,
    Calibration,
    EmittedFrames,
    Errors,
    FileEntry,
    InputSpec,
    LayerPrecision,
    Manifest,
    ModelSpec,
    OutputSpec,
    Precision,
    PrecisionSpec,
    TargetSpec,
)

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "Accuracy",
    "BackendSpec",
    "Bundle",
    "Calibration",
    "EmittedFrames",
    "Errors",
    "FileEntry",
    "InputSpec",
    "LayerPrecision",
    "Manifest",
    "ModelSpec",
    "OutputSpec",
    "Precision",
    "PrecisionSpec",
    "TargetSpec",
    "open_bundle",
    "write_bundle",
]

MAX_MANIFEST_BYTES = 4 << 20
DIGEST = "manifest_sha256"
_AGAIN = "build it again"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The path of one artifact; BundleError when the manifest has none of that name."""
        return self.path / self._entry(name).path

    def read(self, name: str) -> bytes:
        """The bytes of one artifact, verified as they are read; what a runtime should be given. Raises BundleError.

        Reading a path again after the check would leave a gap in which the file can change.
        """
        entry = self._entry(name)
        pieces: list[bytes] = []
        _verify_file(self.path, entry, pieces)
        return b"".join(pieces)

    def _entry(self, name: str) -> FileEntry:
        for entry in self.manifest.files:
            if entry.path == name:
                return entry
        names = ", ".join(entry.path for entry in self.manifest.files) or "none"
        raise BundleError(f"{self.path} has no file {name}; its files: {names}")


def write_bundle(
    out: str | os.PathLike[str], manifest: Manifest, artifacts: Mapping[str, bytes | Path], force: bool = False
) -> Bundle:
    """Write `artifacts` (file name to content or to a file to copy) and their manifest as the new folder `out`.

    Sizes and digests are filled in, the manifest is written last, and the whole is verified before it gets its name.
    Raises UsageError when `out` exists and `force` is not set, WriteError, and BundleError.
    """
    with write_folder_atomic(out, force=force, marker=MANIFEST_NAME) as folder:
        entries = tuple(_store(folder, name, content) for name, content in artifacts.items())
        complete = _parse({**manifest.model_dump(mode="json"), "files": [dict(entry) for entry in entries]}, Path(out))
        write_atomic(folder / MANIFEST_NAME, _render(complete))
        open_bundle(folder)
    return Bundle(Path(out), complete)


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle after verifying its manifest and the size and SHA-256 of every file; raises BundleError."""
    folder = Path(path)
    try:
        document = _read_manifest(folder)
    except OSError as error:
        raise _unreadable(folder, error) from error
    manifest = _parse(document, folder)
    for entry in manifest.files:
        _verify_file(folder, entry)
    return Bundle(folder, manifest)


def _store(folder: Path, name: str, content: bytes | Path) -> FileEntry:
    try:
        entry = FileEntry(path=name, size=0, sha256="0" * 64)
    except ValidationError:
        raise BundleError(f"{name!r} cannot be a file of a bundle: use letters, digits, '.', '-' and '_'") from None
    digest, size = hashlib.sha256(), 0
    with open(folder / name, "xb") as file:
        for piece in _pieces(content):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
    return entry.model_copy(update={"size": size, "sha256": digest.hexdigest()})


def _pieces(content: bytes | Path) -> Any:
    if isinstance(content, bytes):
        yield content
        return
    try:
        file = open(content, "rb")  # noqa: SIM115
    except OSError as error:
        raise BundleError(f"cannot read the artifact {content}: {(error.strerror or '').lower()}; {_AGAIN}") from error
    with file:
        while piece := file.read(CHUNK):
            yield piece


def _render(manifest: Manifest) -> bytes:
    document = manifest.model_dump(mode="json")
    return _text({**document, DIGEST: _digest(document)})


def _text(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2, allow_nan=False).encode() + b"\n"


def _digest(document: dict[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest's fields without the digest, once both are known to be what was written."""
    if not folder.is_dir():
        raise BundleError(f"no such bundle: {folder}; make one with pstmo-edge build --out {folder}")
    if not (folder / MANIFEST_NAME).exists():
        raise BundleError(f"{folder} is no bundle: it holds no {MANIFEST_NAME}; give the folder that build wrote")
    data = _read_bounded(folder)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise BundleError(f"{folder / MANIFEST_NAME} is damaged: it is not JSON; {_AGAIN}") from None
    if not isinstance(document, dict):
        raise BundleError(f"{folder / MANIFEST_NAME} is damaged: it is not a JSON object; {_AGAIN}")
    _check_schema(folder, document.get("schema_version"))
    digest = document.pop(DIGEST, None)
    try:
        # Byte for byte: JSON has several forms of one value (1e-5 and 1E-5), each of them a changed bit let through.
        unchanged = digest == _digest(document) and _text({**document, DIGEST: digest}) == data
    except (ValueError, RecursionError):
        unchanged = False
    if not unchanged:
        raise BundleError(f"{folder / MANIFEST_NAME} was changed since it was written; {_AGAIN}")
    return document


def _check_schema(folder: Path, version: object) -> None:
    if type(version) is not int or version < 1:
        raise BundleError(f"{folder / MANIFEST_NAME} is damaged: it has no schema_version; {_AGAIN}")
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{folder} was made by a newer pstmo-edge (schema {version}, this one reads up to {SCHEMA_VERSION}): "
            "upgrade with pip install -U pstmo-edge"
        )


def _read_bounded(folder: Path) -> bytes:
    size = _regular_size(folder, MANIFEST_NAME)
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{folder / MANIFEST_NAME} has {size} bytes and at most {MAX_MANIFEST_BYTES} are allowed; {_AGAIN}"
        )
    with open(folder / MANIFEST_NAME, "rb") as file:
        return file.read(MAX_MANIFEST_BYTES)


def _parse(document: dict[str, Any], folder: Path) -> Manifest:
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        message = first["msg"].removeprefix("Value error, ").lower()
        raise BundleError(f"{folder / MANIFEST_NAME} cannot be used: {field}: {message}; {_AGAIN}") from None


def _regular_size(folder: Path, name: str) -> int:
    try:
        status = (folder / name).lstat()
    except FileNotFoundError:
        raise BundleError(f"{folder} is incomplete: {name} is missing; copy the whole folder or {_AGAIN}") from None
    except OSError as error:
        raise _unreadable(folder / name, error) from error
    if not stat.S_ISREG(status.st_mode):  # a link could lead outside the folder
        raise BundleError(f"{folder / name} is no regular file; copy the whole folder or {_AGAIN}")
    return status.st_size


def _verify_file(folder: Path, entry: FileEntry, keep: list[bytes] | None = None) -> None:
    size = _regular_size(folder, entry.path)
    if size != entry.size:
        raise BundleError(f"{folder / entry.path} has {size} bytes and the manifest says {entry.size}; {_AGAIN}")
    digest = hashlib.sha256()
    try:
        descriptor = os.open(folder / entry.path, os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            left = entry.size  # a file that grows meanwhile is not followed
            while left and (piece := file.read(min(CHUNK, left))):
                left -= len(piece)
                digest.update(piece)
                if keep is not None:
                    keep.append(piece)
    except OSError as error:
        raise _unreadable(folder / entry.path, error) from error
    if digest.hexdigest() != entry.sha256:
        raise BundleError(f"{folder / entry.path} was changed since it was written (SHA-256 differs); {_AGAIN}")


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"cannot read {path}: {(error.strerror or 'unknown reason').lower()}; check its permissions")
