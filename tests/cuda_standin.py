"""The stand-in driver of tests/native, and what stands for cubins there."""

import ctypes
import struct
from functools import cache

from native_build import native_build

from pstmo_edge.kernels.abi import NativeEngine
from pstmo_edge.kernels.triton import tuning
from pstmo_edge.kernels.triton.plan import Compiled

ROOM = 1 << 32


def cubin(text):
    """The text as the only section of an ELF file for NVIDIA's GPUs."""
    head = struct.pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 2, 190, 1, 0, 0, 64, 0, 64, 0, 0, 64, 1, 0)
    return head + struct.pack("<IIQQQQIIQQ", 0, 1, 0, 0, 128, len(text), 0, 0, 1, 0) + text.encode()


def compiler(capability):
    """Texts in the place of cubins: what the kernel is, for the stand-in to compute."""

    def compile_source(source):
        threads, shared = 32 * source.tiles.warps, 49 * 1024 + 16 * source.tiles.block_m
        lines = [f"standin {source.kernel} {threads} {shared}"]
        lines += [f"argument {name} {type}" for name, type in source.types]
        lines += [f"constant {name} {int(value)}" for name, value in source.constants]
        return Compiled(cubin("\n".join(lines)), source.kernel, threads, shared)

    return compile_source


def single(capability):
    """The same for the kernel of one window; 12000 is the least driver."""
    names = ("network", "keypoints", "poses", "workspace")
    text = "\n".join(["standin single_window 256 0", *(f"argument {name} *i8" for name in names)])
    return Compiled(cubin(text), "single_window", 256, 0), 12000, {}


def choice(kernel, kind, capability):
    """Tiles for all types, small, so that a few frames make several programs."""
    few, many = tuning.Tiles(4, 8, 2, 1, span=96), tuning.Tiles(16, 32, 4, 1, span=40)
    return tuning.Choice(few, many)


@cache
def library():
    lib = ctypes.CDLL(str(path()))
    lib.standin_set.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
    lib.standin_fail.argtypes = [ctypes.c_long, ctypes.c_int]
    for name in ("calls", "launches", "replays", "together", "live"):
        getattr(lib, f"standin_{name}").restype = ctypes.c_long
    lib.standin_violation.restype = ctypes.c_char_p
    return lib


@cache
def path():
    return native_build("standin_cuda") / "tests/native/libstandin_cuda.so"


def set_up(capability=87, multiprocessors=1, version=12060, memory=ROOM, computes=True):
    library().standin_set(capability, multiprocessors, version, memory, computes)


def open_engine(folder, max_batch=2, device="cuda"):
    return NativeEngine(folder, device=device, max_batch=max_batch, driver=path())
