"""The child process that opens a foreign torch file, alone with it: run as a script, never imported by the package.

`torch.load(weights_only=True)` runs no code that a pickle asks for, yet it is not memory-safe: crafted tensors crash
the process that loads or uses them. So the file is opened here, where memory, processor time and written bytes are
bounded, and where a crash costs nothing. The file comes as standard input, the answer leaves as standard output: one
byte `T` and a safetensors file, or `E` and a JSON object with a `kind` and a `detail`. Nothing here is trusted by the
parent, which checks the answer again.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import zipfile
from typing import Any, BinaryIO

WRAPPERS = ("model_pos", "state_dict", "model")
DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")
MAX_TENSORS = 65_536
MAX_NAME = 512

# Loading holds the file once as storages, then once as arrays and once as the answer. Measured above what the
# libraries map: 3.3 times the file for float32, 6.3 times for bfloat16, which leaves as float32.
ADDRESS_BASE = 512 << 20
ADDRESS_PER_BYTE = 7


class RefusedError(Exception):
    """A file that is not handed over: `kind` says which sentence the parent makes of it."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


def main() -> None:
    """Read the settings from the command line, and answer on the standard output that this process was started with."""
    settings = json.loads(sys.argv[1])
    sys.path.extend(path for path in settings["paths"] if path not in sys.path)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    descriptor = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that nothing else can print into the answer
    run(0, descriptor, settings["cpu_seconds"])


def run(source: int, answer: int, cpu_seconds: int) -> None:
    """Read the file open as `source` under limits and write the answer to the descriptor `answer`."""
    with open(source, "rb") as file, open(answer, "wb") as out:
        try:
            import_libraries()
            size = os.fstat(source).st_size
            limit(size, cpu_seconds)
            tensors = read_tensors(file, size)
            out.write(b"T" + tensors)
        except MemoryError:
            tell(out, RefusedError("memory"))
        except RefusedError as refused:
            tell(out, refused)


def tell(out: BinaryIO, refused: RefusedError) -> None:
    """Write the answer that hands nothing over."""
    out.write(b"E" + json.dumps({"kind": refused.kind, "detail": refused.detail[:200]}).encode())


def import_libraries() -> None:
    """Load torch before the limits are set, which are about the file and not about the libraries."""
    try:
        import safetensors.numpy  # noqa: F401
        import torch
    except ImportError as error:
        raise RefusedError("torch", str(error)) from None
    torch.set_num_threads(1)


def limit(size: int, cpu_seconds: int) -> None:
    """Bound address space, processor time and written bytes from here on, for a file of `size` bytes."""
    if os.path.exists("/proc/self/statm"):  # elsewhere (macOS) the kernel bounds no address space either
        with open("/proc/self/statm") as statm:
            mapped = int(statm.read().split()[0]) * resource.getpagesize()  # 0.6 GB for torch, many with CUDA
        lower(resource.RLIMIT_AS, mapped + ADDRESS_BASE + ADDRESS_PER_BYTE * size)
    used = resource.getrusage(resource.RUSAGE_SELF)
    lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + cpu_seconds)
    lower(resource.RLIMIT_FSIZE, answer_limit(size))


def answer_limit(size: int) -> int:
    """The most bytes an answer can need: every tensor named twice, bfloat16 turned into float32, and the names."""
    return 4 * size + (64 << 20)


def lower(which: int, value: int) -> None:
    """Set a limit, or keep the lower one that this process already has."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def read_tensors(file: BinaryIO, size: int) -> bytes:
    """The state dict of the file as safetensors bytes; RefusedError for all but plain, dense, finite tensors."""
    import safetensors.numpy

    arrays, total = {}, 0
    for name, tensor in named_tensors(load(file, size)):
        check_tensor(name, tensor)
        total += tensor.numel() * tensor.element_size()
        if total > 2 * size:  # tied weights are stored once and named twice; nothing honest goes beyond
            raise RefusedError("size", f"its tensors claim more than {2 * size} bytes and the file has {size}")
        if name in arrays:
            raise RefusedError("state", f"two tensors are named {name}")
        arrays[name] = to_array(name, tensor)
    if not arrays:
        raise RefusedError("state", "it holds no tensors")
    return bytes(safetensors.numpy.save(arrays))


def load(file: BinaryIO, size: int) -> Any:
    """Unpickle with torch's restricted unpickler; RefusedError with the reason where that fails."""
    import torch

    try:
        check_archive(file, size)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RefusedError, MemoryError):
        raise
    except Exception as error:  # a hostile file can raise anything
        raise reason(str(error)) from None


def reason(text: str) -> RefusedError:
    """What torch's message means for the user, whom it would advise to load the file without any protection."""
    if match := re.search(r"GLOBAL `?([\w.]+)", text):
        return RefusedError("code", match[1])
    if match := re.search(r"Unsupported operand (\d+)|call reduce for unrecognized|only build Tensor", text):
        return RefusedError("code", f"pickle instruction {match[1]}" if match[1] else "a call of something it made")
    if "allocate memory" in text:
        return RefusedError("memory")
    return RefusedError("script" if "TorchScript" in text else "damaged")


def check_archive(file: BinaryIO, size: int) -> None:
    """Refuse damaged records, which torch does not notice, and compressed ones, which can unfold to gigabytes."""
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        return
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise RefusedError("damaged", "its records are compressed")
        if sum(record.file_size for record in records) > size:
            raise RefusedError("damaged", "its records overlap")
        if bad := archive.testzip():
            raise RefusedError("damaged", f"the checksum of its record {bad} differs")


def named_tensors(content: Any) -> list[tuple[str, Any]]:
    """The entries of the state dict, found at the top or under one of WRAPPERS, without DataParallel's prefixes."""
    if not isinstance(content, dict):
        raise RefusedError("state", f"it holds a {type(content).__name__}")
    inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    if len(inner) > MAX_TENSORS:
        raise RefusedError("state", f"it has {len(inner)} entries and at most {MAX_TENSORS} are allowed")
    return [(check_name(name), tensor) for name, tensor in inner.items()]


def check_name(name: Any) -> str:
    """The name without `module.`; RefusedError for what is no printable text of bounded length."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
        raise RefusedError("state", f"{ascii(name)[:80]} is no name of a tensor")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def check_tensor(name: str, tensor: Any) -> None:
    """Refuse all but plain dense tensors on the CPU; looks at no element, since a crafted tensor may not survive it."""
    import torch

    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise RefusedError("state", f"{name} is a {type(tensor).__name__} and not a tensor")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_nested or tensor.is_quantized:
        raise RefusedError("state", f"{name} is no dense tensor in memory")
    if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
        raise RefusedError("state", f"{name} has the type {tensor.dtype}")
    if overlaps(tensor.shape, tensor.stride()):
        raise RefusedError("state", f"{name} repeats its own elements")


def overlaps(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether two indices reach one element: then a tiny file could claim a tensor of any size."""
    reach = 0
    for stride, extent in sorted((stride, extent) for stride, extent in zip(strides, shape, strict=True) if extent > 1):
        if stride <= reach:
            return True
        reach += stride * (extent - 1)
    return False


def to_array(name: str, tensor: Any) -> Any:
    """The tensor as a contiguous finite array; bfloat16, which NumPy lacks, becomes float32."""
    import numpy as np
    import torch

    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array = np.array(tensor.numpy(), order="C")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RefusedError("finite", name)
    return array


if __name__ == "__main__":
    main()
