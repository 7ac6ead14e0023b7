"""Foreign weights: what must load, what must be refused, and that nothing a file holds can run or kill."""

import collections
import io
import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch

from pstmo_edge.errors import CheckpointError
from pstmo_edge.files import WriteError
from pstmo_edge.models import checkpoints
from pstmo_edge.models.checkpoints import fit_state, load_weights, read_checkpoint, save_weights

torch = pytest.importorskip("torch")

STATE = {
    "layer.weight": np.linspace(-1, 1, 512, dtype=np.float32).reshape(16, 32),
    "layer.bias": np.arange(3, dtype=np.float32),
    "norm.num_batches_tracked": np.array(7, np.int64),
}
SHAPES = {name: array.shape for name, array in STATE.items()}


def tensors(prefix: str = "") -> dict:
    return {prefix + name: torch.from_numpy(array.copy()) for name, array in STATE.items()}


def saved(content, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def refusal(path: Path, data: bytes | None = None) -> str:
    """The message with which read_checkpoint refuses a file."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def same(state, other=STATE) -> bool:
    return state.keys() == other.keys() and all(
        np.array_equal(state[name], other[name]) and state[name].dtype == other[name].dtype for name in other
    )


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Put a script of a few lines in the importer's place; it starts without torch, in milliseconds."""

    def put(code: str) -> None:
        (tmp_path / "child.py").write_text("import json, os, sys, time, signal, numpy\n" + code)
        monkeypatch.setattr(checkpoints, "CHILD", tmp_path / "child.py")

    return put


def open_many(folder: Path, files: dict[str, bytes], *options: str) -> dict[str, tuple[int, bytes]]:
    """Exit status and answer of the importer for each file, opened one by one in forks of one process."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    script = Path(__file__).with_name("import_many.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(checkpoints.CHILD), str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=True)
    answers = {name: folder / f"{name}.answer" for name in files}
    return {
        name: (status, answers[name].read_bytes() if answers[name].exists() else b"")
        for name, status in json.loads(done.stdout).items()
    }


def outcome(name: str, data: bytes, status: int, answer: bytes) -> dict | str:
    """What read_checkpoint makes of the importer's exit status and answer: a state dict or a message."""
    try:
        if status:
            checkpoints._raise_crash(status, io.BytesIO(b"crashed"), name)
        return checkpoints._read_answer(io.BytesIO(answer), len(data), name)
    except CheckpointError as error:
        return str(error)


# ---- what must load


@pytest.mark.parametrize("legacy", [False, True])
def test_a_published_checkpoint_loads(tmp_path, legacy):
    path = tmp_path / "PSTMO.pth"
    path.write_bytes(saved({"epoch": 28, "lr": 1e-4, "model_pos": tensors("module.")}, legacy))
    assert same(read_checkpoint(path))


def test_every_way_to_wrap_a_state_dict(tmp_path):
    half = {"a": torch.ones(3, 2, dtype=torch.bfloat16).T / 3, "b": torch.ones(2, dtype=torch.float16)}
    contents = {
        "plain": tensors(),
        "ordered": collections.OrderedDict(tensors()),
        "state_dict": {"state_dict": tensors("module.module.")},
        "model": {"model": tensors(), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        "parameters": {name: torch.nn.Parameter(tensor, requires_grad=False) for name, tensor in tensors().items()},
        "tied": {**tensors(), **dict.fromkeys(("one", "two"), torch.ones(300))},
        "view": {"a": torch.arange(40.0)[10:30:2].reshape(5, 2).T, "b": torch.zeros(0, 3)},
        "half": half,
    }
    results = open_many(tmp_path / "files", {name: saved(content) for name, content in contents.items()})
    states = {name: outcome(name, bytes(5000), *result) for name, result in results.items()}
    for name in ("plain", "ordered", "state_dict", "model", "parameters"):
        assert same(states[name]), (name, states[name])
    assert states["tied"].keys() == contents["tied"].keys()
    assert np.array_equal(states["view"]["a"], np.arange(10, 30, 2).reshape(5, 2).T)
    assert states["view"]["b"].shape == (0, 3)
    assert np.array_equal(states["half"]["a"], half["a"].float().numpy())
    assert states["half"]["b"].dtype == np.float16


# ---- what is refused before or without torch


def test_refused_at_the_door(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.pth")
    assert "is empty" in refusal(tmp_path / "empty.pth", b"")
    assert "begins with b'\\x89PNG" in refusal(tmp_path / "image.pth", b"\x89PNG\r\n\x1a\n" + bytes(90))
    assert "begins with b'hello" in refusal(tmp_path / "text.pth", b"hello world, no weights")
    assert "damaged or no safetensors" in refusal(tmp_path / "x.safetensors", saved(tensors()))
    assert "is no file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "fifo.pth")
    assert "is no file" in refusal(tmp_path / "fifo.pth")
    with open(tmp_path / "huge.pth", "wb") as file:
        file.truncate((1 << 30) + 1)
    assert "at most 1073741824 (1 GiB) are allowed" in refusal(tmp_path / "huge.pth")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed the importing process (SIGSEGV); it is crafted or damaged"),
        ("os.abort()", "crashed the importing process (SIGABRT)"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "more time or memory than its size explains"),
        ("time.sleep(60)", "took more than 1 s"),
        ("raise RuntimeError('bad\\nthing \\x1b[31m')", "the importing process failed: thing  [31m"),
        ("", "gave no answer"),
        ("print('X')", "gave no answer"),
        ("print('E{}')", "gave no answer"),
        ("print('E' + json.dumps({'kind': 'other', 'detail': ''}))", "gave no answer"),
        ("print('E' + json.dumps({'kind': 'code', 'detail': 'os.system\\n\\x1b[2J'}))", "run code (os.system  [2J)"),
        ("print('T' + 'x' * 100)", "damaged or no safetensors file"),
        ("os.truncate(1, 80_000_000)", "answered more than"),
        (
            "import safetensors.numpy as s\n"
            "sys.stdout.buffer.write(b'T' + s.save({'w': numpy.array([numpy.nan], 'f4')}))",
            "its weights are broken: w holds NaN or infinity",
        ),
    ],
)
def test_whatever_the_child_does_is_one_sentence(tmp_path, monkeypatch, child, code, message):
    monkeypatch.setattr(checkpoints, "WALL_SECONDS", 1 if "sleep" in code else 60)
    paths = [path for path in sys.path if "site-packages" in path]
    child(f"sys.path.extend({paths})\n{code}")
    assert message in refusal(tmp_path / "a.pth", saved(tensors()))


def test_a_child_that_cannot_start(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.sys, "executable", str(tmp_path / "python"))
    assert "cannot start" in refusal(tmp_path / "a.pth", saved(tensors()))


def test_the_child_sees_no_environment(tmp_path, monkeypatch, child):
    monkeypatch.setenv("SECRET", "1")
    child("print('E' + json.dumps({'kind': 'code', 'detail': ' '.join(sorted(os.environ)) + os.getcwd()}))")
    message = refusal(tmp_path / "a.pth", saved(tensors()))
    assert "SECRET" not in message
    assert "HOME" not in message
    assert "LC_ALL" in message


# ---- payloads


class Call:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments, state=None):
        self.result = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.result

    def __call__(self):
        """Never called: pickle wants what it is told to call to be callable."""


def payloads(marker: str, second_stage: str) -> dict[str, object]:
    """Objects whose pickles create the file `marker` when unpickled by plain pickle."""
    command, code = f"touch {marker}", f"open({marker!r}, 'w').close()"
    return {
        "os.system": Call(os.system, command),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "popen": Call(os.popen, command),
        "subprocess": Call(subprocess.call, ["touch", marker]),
        "open": Call(open, marker, "w"),
        "mkdir": Call(os.mkdir, marker),
        "getattr": Call(Call(getattr, Path, "touch"), Path(marker)),
        "setstate": Call(Call, print, state={"result": Call(os.system, command)}),
        "dict key": {(Call(os.system, command),): 1},
        "under model_pos": {"epoch": 1, "model_pos": {**tensors(), "x": Call(os.system, command)}},
        "in a list": [1, [2, [3, Call(os.system, command)]]],
        "in hooks": Call(
            torch._utils._rebuild_parameter, torch.zeros(1), False, collections.OrderedDict(a=Call(os.system, command))
        ),
        "torch.load": Call(torch.load, second_stage),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, command), 2)),
    }


def raw_payloads(marker: str) -> dict[str, bytes]:
    """The same through opcodes that Python's own pickler does not write."""
    command = f"touch {marker}".encode()
    text = b"X" + struct.pack("<I", len(command)) + command
    return {
        "INST": b"\x80\x02(" + text + b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(cos\nsystem\n" + text + b"o.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.",
        "protocol 4": pickle.dumps(Call(os.system, command.decode()), 4),
        "protocol 5": pickle.dumps(Call(os.system, command.decode()), 5),
        "GLOBAL": b"\x80\x02cposix\nsystem\n" + text + b"\x85R.",
    }


def every_payload(marker: Path) -> dict[str, bytes]:
    """Each payload in each format of torch.save and as a bare pickle, by name."""
    second = marker.with_name("second.pth")
    second.write_bytes(pickle.dumps(Call(os.system, f"touch {marker}"), 2))
    found = {}
    for name, content in payloads(str(marker), str(second)).items():
        found[f"{name} zip"] = saved(content)
        found[f"{name} legacy"] = saved(content, legacy=True)
    for name, data in raw_payloads(str(marker)).items():
        found[f"{name} bare"] = data
        found[f"{name} zip"] = in_archive(data)
    return found


def in_archive(data: bytes) -> bytes:
    """A torch archive whose data.pkl is `data`."""
    source = zipfile.ZipFile(io.BytesIO(saved(tensors())))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for record in source.infolist():
            content = data if record.filename.endswith("data.pkl") else source.read(record)
            archive.writestr(record.filename, content)
    return buffer.getvalue()


def test_no_payload_runs(tmp_path):
    marker = tmp_path / "marker"
    files = every_payload(marker)
    assert len(files) >= 40
    for name, (status, answer) in open_many(tmp_path / "files", files).items():
        message = outcome(name, files[name], status, answer)
        assert isinstance(message, str), name
        assert "refused: the file asks to run code (" in message, (name, message)
    assert not marker.exists()


def test_the_payloads_are_live(tmp_path):
    """The planted bug: with an importer that lets pickles run, payloads of every kind and format do."""
    ran = []
    for kind in ("os.system zip", "eval legacy", "INST bare", "OBJ zip", "in hooks zip", "getattr legacy"):
        folder = tmp_path / kind.replace(" ", "-")
        folder.mkdir()
        data = every_payload(folder / "marker")[kind]
        ran.append(data)
    everything = {str(index): data for index, data in enumerate(ran)}
    open_many(tmp_path / "files", everything, "--planted")
    markers = sorted(path.parent.name for path in tmp_path.glob("*/marker"))
    assert len(markers) == len(ran), markers


def test_a_payload_is_named_to_the_user(tmp_path):
    marker = tmp_path / "marker"
    message = refusal(tmp_path / "evil.pth", saved({"model_pos": Call(os.system, f"touch {marker}")}))
    assert "refused: the file asks to run code (posix.system); a weights file must hold only tensors" in message
    assert not marker.exists()


# ---- crafted and damaged files


class Rebuilt:
    """Pickles as a tensor over the storage of `tensor` with any size, strides and offset."""

    def __init__(self, tensor, size, stride, offset=0):
        storage = torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True)
        self.arguments = (storage, offset, size, stride, False, collections.OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


def sparse(indices) -> object:
    """A sparse tensor whose indices lie outside it: it loads, and its first use crashes the process."""
    arguments = (torch.tensor(indices), torch.ones(1), torch.Size([2, 2]))
    return Call(torch._utils._rebuild_sparse_tensor, torch.sparse_coo, (*arguments, False))


def crafted() -> dict[str, tuple[object, str]]:
    base = torch.arange(4.0)
    return {
        "sparse": ({"a": sparse([[1 << 40], [0]])}, "no dense tensor|damaged|refused"),
        "repeated": ({"a": Rebuilt(base, (1 << 38,), (0,))}, "repeats its own elements"),
        "windows": ({"a": Rebuilt(torch.arange(2000.0), (1000, 1000), (1, 1))}, "repeats its own elements"),
        "beyond": ({"a": Rebuilt(base, (5,), (1,))}, "damaged"),
        "negative": ({"a": Rebuilt(base, (2,), (-1,), 3)}, "damaged"),
        "terabytes": ({"a": Rebuilt(base, (1 << 40,), (1,))}, "damaged|more memory"),
        "shared": (dict.fromkeys(map(str, range(200)), torch.ones(5000)), "claim more than"),
        "nan": ({**tensors(), "bad": torch.tensor([1.0, float("nan")])}, "bad holds NaN or infinity"),
        "infinite": ({"bad": torch.tensor(float("-inf"))}, "bad holds NaN or infinity"),
        "complex": ({"a": torch.zeros(2, dtype=torch.complex64)}, "has the type torch.complex64"),
        "meta": ({"a": torch.zeros(2, device="meta")}, "no dense tensor|damaged|refused"),
        "a list": ([1, 2], "it holds a list"),
        "a tensor": (base, "it holds a Tensor"),
        "empty": ({}, "it holds no tensors"),
        "a number": ({"lr": 0.1}, "lr is a float and not a tensor"),
        "numbered": ({1: base}, "1 is no name of a tensor"),
        "control": ({"a\n\x1b[2J": base}, "is no name of a tensor"),
        "twice": ({"module.a": base, "a": base.clone()}, "two tensors are named a"),
        "module": (torch.nn.Linear(2, 2), r"asks to run code \(torch.nn.modules.linear.Linear\)"),
        "random state": ({"random_state": np.random.RandomState(0)}, "asks to run code"),
    }


def test_crafted_files_are_refused(tmp_path):
    cases = crafted()
    files = {name: saved(content) for name, (content, _) in cases.items()}
    files |= {f"{name} legacy": saved(content, legacy=True) for name, (content, _) in cases.items()}
    for name, (status, answer) in open_many(tmp_path / "files", files).items():
        message = outcome(name, files[name], status, answer)
        expected = cases[name.removesuffix(" legacy")][1]
        assert isinstance(message, str), (name, message)
        assert re.search(expected, message), (name, message)


def test_a_compressed_archive_is_refused(tmp_path):
    buffer = io.BytesIO()
    source = zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(1 << 22)})))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for record in source.infolist():
            archive.writestr(record.filename, source.read(record))
    assert "its records are compressed" in refusal(tmp_path / "bomb.pth", buffer.getvalue())


def mutant(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(6)
    start, length = rng.randrange(len(data)), rng.choice((1, 1, 2, 8, 64))
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:start] + data[start + length :]
    if kind == 2:
        return data[:start] + data[rng.randrange(len(data)) :][:length] + data[start:]
    if kind == 3:
        return data[:start] + rng.randbytes(length) + data[start + length :]
    if kind == 4:
        return data[:start] + bytes([rng.choice(b"\x00\xff\x80cRbo(i}u.tqhjJKMXQ\x85\x86\x87\x93")]) + data[start + 1 :]
    return data[:start] + bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 :]


def wrong_accepts(folder: Path, legacy: bool, count: int, seed: int) -> list[str]:
    """The mutants of a valid file that come through and fit the model without being whole."""
    rng = random.Random(seed)
    good = saved(tensors(), legacy)
    files = {str(index): mutant(good, rng) for index in range(count)}
    wrong = []
    for name, (status, answer) in open_many(folder, files).items():
        result = outcome(name, files[name], status, answer)
        if isinstance(result, dict):
            try:
                result = fit_state(result, SHAPES, name, "the model")
            except CheckpointError:
                continue
            # The archive has checksums, so that only the original comes through; the old format has none.
            whole = same(result) if not legacy else all(np.isfinite(array).all() for array in result.values())
            wrong += [] if whole else [name]
    return wrong


@pytest.mark.parametrize("legacy", [False, True])
def test_random_damage_is_never_accepted(tmp_path, legacy):
    count = int(os.environ.get("PSTMO_EDGE_MUTANTS", "250"))
    assert wrong_accepts(tmp_path / "files", legacy, count, seed=11) == []


def test_the_campaign_finds_a_planted_bug(tmp_path, monkeypatch):
    blind = (tmp_path / "blind.py").resolve()
    source = checkpoints.CHILD.read_text()
    assert "if bad := archive.testzip()" in source
    blind.write_text(source.replace("if bad := archive.testzip()", "if bad := None"))
    monkeypatch.setattr(checkpoints, "CHILD", blind)
    assert wrong_accepts(tmp_path / "files", legacy=False, count=60, seed=11) != []


def test_truncated_files_are_refused(tmp_path):
    files = {}
    for legacy in (False, True):
        good = saved(tensors(), legacy)
        files |= {f"{legacy} {end}": good[:end] for end in range(1, len(good), 1 + len(good) // 25)}
    for name, (status, answer) in open_many(tmp_path / "files", files).items():
        assert isinstance(outcome(name, files[name], status, answer), str), name
    assert "damaged, truncated or no torch weights file" in refusal(tmp_path / "cut.pth", saved(tensors())[:-30])


# ---- our own files


def test_weights_come_back(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = {**STATE, "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    metadata = {str(key): "é" for key in range(8)}
    save_weights(path, state, metadata)
    first = path.read_bytes()
    save_weights(path, dict(reversed(state.items())), dict(reversed(metadata.items())))
    assert path.read_bytes() == first
    loaded, found = load_weights(path)
    assert same(loaded, state)
    assert found == metadata
    assert same(read_checkpoint(path), state)
    assert same(safetensors.numpy.load(first), state)
    with pytest.raises(WriteError):
        save_weights(tmp_path / "none" / "x", state, {})


def test_foreign_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.numpy.save({f"module.{name}": array for name, array in STATE.items()}))
    assert same(read_checkpoint(path))
    values = torch.tensor([1 / 3, -2.0], dtype=torch.bfloat16)
    path.write_bytes(safetensors.torch.save({"a": values}))
    assert np.array_equal(read_checkpoint(path)["a"], values.float().numpy())
    path.write_bytes(safetensors.torch.save({"a": values.to(torch.float8_e4m3fn)}))
    assert "a has the type F8_E4M3; allowed are" in refusal(path)
    path.write_bytes(safetensors.numpy.save({"a": np.array([np.inf], np.float32)}))
    assert "a holds NaN or infinity" in refusal(path)
    path.write_bytes(safetensors.numpy.save({}))
    assert "it holds no tensors" in refusal(path)
    path.write_bytes(safetensors.numpy.save({"a\x1b[2J": np.zeros(1, np.float32)}))
    assert "is no name or comes twice" in refusal(path)


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, STATE, {"a": "b"})
    good = path.read_bytes()
    for end in range(0, len(good), 5):
        path.write_bytes(good[:end])
        with pytest.raises(CheckpointError):
            load_weights(path)
    rng = random.Random(3)
    for _ in range(300):
        path.write_bytes(mutant(good, rng))
        try:
            state, _ = load_weights(path)
        except CheckpointError:
            continue
        assert all(np.isfinite(array).all() for array in state.values())
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(tmp_path / "none")
