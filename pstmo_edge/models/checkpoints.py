"""Weights on disk: foreign torch and safetensors files in, our own safetensors files in and out.

A torch file is opened only in a child process under limits (`_import_child.py`), and what comes back is a safetensors
file that is checked again here: this process never unpickles.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
import safetensors
import safetensors.numpy

from pstmo_edge.errors import CheckpointError
from pstmo_edge.files import write_atomic

from .fitting import fit_state

__all__ = ["fit_state", "load_weights", "read_checkpoint", "save_weights"]

State = dict[str, np.ndarray]

MAX_BYTES = 1 << 30
CHILD = Path(__file__).with_name("_import_child.py")
# Importing torch alone takes 2 s here and 20 s on a small board under load. Both limits grow with the file.
WALL_SECONDS = 120
CPU_SECONDS = 60
BYTES_PER_SECOND = 10 << 20

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
}

_SENTENCES = {
    "code": "refused: the file asks to run code ({detail}); a weights file must hold only tensors: "
    "save it again with torch.save(model.state_dict(), ...)",
    "script": "a TorchScript program and not a weights file; save it again with torch.save(model.state_dict(), ...)",
    "damaged": "damaged, truncated or no torch weights file{colon}; download or save it again",
    "memory": "refused: the file asks for more memory than its size explains; download or save it again",
    "size": "refused: {detail}; download or save it again",
    "state": "no usable state dict: {detail}; save it again with torch.save(model.state_dict(), ...)",
    "finite": "its weights are broken: {detail} holds NaN or infinity; use another checkpoint",
    "torch": "opening it needs torch, which is not installed; run pip install 'pstmo-edge[build]'",
}


def read_checkpoint(path: str | os.PathLike[str]) -> State:
    """Open a published or foreign weights file and return its tensors by name, as finite arrays.

    `.safetensors` is read here, anything else is taken for a torch file (`.pth`, `.pt`, `.bin`): a state dict, or one
    under `model_pos`, `state_dict` or `model`. Names lose DataParallel's `module.`; bfloat16 becomes float32. Raises
    CheckpointError, whatever the file holds.
    """
    path = Path(path)
    try:
        with _open_bounded(path) as file:
            if path.suffix.lower() == ".safetensors":
                return _decode(file.read(), str(path))[0]
            _check_start(file, path)
            return _import_torch(file, str(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error


def save_weights(path: str | os.PathLike[str], state: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a state dict as a safetensors file, atomically; equal contents give equal bytes. Raises WriteError."""
    arrays = {name: np.ascontiguousarray(state[name]).reshape(np.shape(state[name])) for name in sorted(state)}
    write_atomic(path, _sorted_header(safetensors.numpy.save(arrays, metadata=dict(metadata))))


def load_weights(path: str | os.PathLike[str]) -> tuple[State, dict[str, str]]:
    """Read a file written by save_weights: the arrays by name, and the metadata. Raises CheckpointError."""
    path = Path(path)
    try:
        with _open_bounded(path) as file:
            return _decode(file.read(), str(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error


def _open_bounded(path: Path) -> BinaryIO:
    """Open a regular file of a bounded size; the descriptor is what is checked, so the name cannot change between."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would wait for a writer for ever
    except FileNotFoundError:
        raise CheckpointError(f"no such file: {path}") from None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MAX_BYTES:
        return open(descriptor, "rb")
    os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is no file; give a .pth, .pt, .bin or .safetensors file")
    if not status.st_size:
        raise CheckpointError(f"{path} is empty; download or save it again")
    raise CheckpointError(f"{path} has {status.st_size} bytes and at most {MAX_BYTES} (1 GiB) are allowed")


def _check_start(file: BinaryIO, path: Path) -> None:
    """Refuse at once what begins neither like a zip archive nor like a binary pickle, the two forms torch.save has."""
    start = file.read(8)
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise CheckpointError(f"{path} is no torch weights file: it begins with {start!r}; give a .pth or .safetensors")


def _import_torch(file: BinaryIO, source: str) -> State:
    size = os.fstat(file.fileno()).st_size
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    extra = size // BYTES_PER_SECOND
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaints:  # both without a name
        status = _run_child(file, answer, complaints, CPU_SECONDS + extra, WALL_SECONDS + extra, source)
        if status:
            _raise_crash(status, complaints, source)
        return _read_answer(answer, size, source)


def _run_child(
    file: BinaryIO, answer: BinaryIO, complaints: BinaryIO, cpu_seconds: int, wall_seconds: int, source: str
) -> int:
    """Run the importer with `file` as its input and `answer` as its output; returns its exit status."""
    # Isolated mode drops PYTHONPATH and the user's packages, where torch may live: this process' own list is handed
    # over, without entries relative to a current folder that may be somebody else's.
    settings = {"paths": [entry for entry in sys.path if os.path.isabs(entry)], "cpu_seconds": cpu_seconds}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    loader = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    command = [sys.executable, "-I", str(CHILD), json.dumps(settings)]
    try:
        return subprocess.run(
            command,
            stdin=file,
            stdout=answer,
            stderr=complaints,
            env={"LC_ALL": "C.UTF-8", "CUDA_VISIBLE_DEVICES": "", **threads, **loader},
            cwd="/",
            timeout=wall_seconds,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{source}: refused: opening it took more than {wall_seconds} s; save it again") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(f"{source}: cannot start {command[0]} to open it: {reason}") from error


def _raise_crash(status: int, complaints: BinaryIO, source: str) -> NoReturn:
    if -status in (signal.SIGXCPU, signal.SIGKILL):
        raise CheckpointError(f"{source}: refused: opening it takes more time or memory than its size explains")
    if status < 0:
        name = signal.Signals(-status).name
        raise CheckpointError(
            f"{source}: refused: opening it crashed the importing process ({name}); it is crafted or damaged"
        )
    complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - 2000))
    lines = complaints.read().decode(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "no message")
    raise CheckpointError(f"{source}: the importing process failed: {_one_line(last)}")


def _read_answer(answer: BinaryIO, size: int, source: str) -> State:
    """The tensors that the child handed over, of which nothing is believed."""
    limit = 4 * size + (64 << 20)
    if answer.seek(0, os.SEEK_END) > limit:
        raise CheckpointError(f"{source}: the importing process answered more than {limit} bytes")
    answer.seek(0)
    kind = answer.read(1)
    if kind == b"T":
        return _decode(answer.read(), source)[0]
    try:
        refusal = json.loads(answer.read(4096))
        detail = _one_line(str(refusal["detail"]))
        sentence = _SENTENCES[refusal["kind"]]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{source}: the importing process gave no answer") from None
    raise CheckpointError(f"{source}: " + sentence.format(detail=detail, colon=f" ({detail})" if detail else ""))


def _decode(data: bytes, source: str) -> tuple[State, dict[str, str]]:
    """Arrays and metadata of safetensors bytes, every one of them plain, finite and of a listed type."""
    try:
        tensors = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
        metadata = _header(data).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{source}: damaged or no safetensors file ({_one_line(str(error))})") from None
    state: State = {}
    for raw, entry in tensors:
        name = _plain_name(raw)
        if not name.isprintable() or name in state:
            raise CheckpointError(f"{source}: no usable state dict: {ascii(raw)[:80]} is no name or comes twice")
        state[name] = _array(entry, name, source)
    if not state:
        raise CheckpointError(f"{source}: no usable state dict: it holds no tensors")
    return state, metadata


def _array(entry: Mapping[str, object], name: str, source: str) -> np.ndarray:
    dtype = _DTYPES.get(str(entry["dtype"]))
    if dtype is None:
        raise CheckpointError(f"{source}: {name} has the type {entry['dtype']}; allowed are {', '.join(_DTYPES)}")
    array = np.frombuffer(entry["data"], dtype).reshape(entry["shape"]).copy()  # type: ignore[call-overload]
    if entry["dtype"] == "BF16":  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CheckpointError(f"{source}: " + _SENTENCES["finite"].format(detail=name))
    return array


def _plain_name(name: str) -> str:
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _header(data: bytes) -> dict:
    length = int.from_bytes(data[:8], "little")
    header: dict = json.loads(data[8 : 8 + length])
    return header


def _sorted_header(data: bytes) -> bytes:
    """The same file with its metadata in sorted order; the library writes them in another order each time."""
    header = _header(data)
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + int.from_bytes(data[:8], "little") :]


def _one_line(text: str) -> str:
    """Foreign text for a message: printable, on one line, of bounded length."""
    return "".join(character if character.isprintable() else " " for character in text)[:200].strip()
