"""What the CUDA toolkit says of our sources: they compile without a warning, and our declarations are the driver's."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pstmo_edge.errors import BackendError
from pstmo_edge.kernels.cuda import single_window
from pstmo_edge.kernels.triton import aot

ROOT = Path(__file__).parents[3]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc of the CUDA toolkit")


@needs_nvcc
@pytest.mark.parametrize("capability", [87, 90])
def test_the_single_launch_compiles_without_warnings_or_spills(capability):
    kernel, driver, row = single_window.compiled(capability)
    assert kernel.cubin[:4] == b"\x7fELF"
    assert driver >= 12000
    assert (row["spill_store_bytes"], row["spill_load_bytes"]) == (0, 0)
    assert row["registers"] * single_window.THREADS <= 65536


@needs_nvcc
def test_a_warning_is_an_error(tmp_path, monkeypatch):
    source = tmp_path / "unused.cu"
    source.write_text("__global__ void kernel(int* out) { int unused; out[0] = 1; }\n")
    monkeypatch.setattr(single_window, "SOURCE", source)
    with pytest.raises(BackendError, match=r"nvcc does not compile unused.cu for sm_87: .*was declared but never"):
        single_window.compiled(87)


def test_no_nvcc(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BackendError, match=r"^the single launch needs nvcc, not found here: install the CUDA toolkit"):
        single_window.compiled(87)


def test_the_committed_table_has_every_chip():
    rows = json.loads((ROOT / aot.TABLE).read_text())[single_window.NAME]
    assert rows.keys() == {f"sm_{capability}" for capability in aot.TARGETS}
    assert all(row["spill_store_bytes"] == row["spill_load_bytes"] == 0 for row in rows.values())


@needs_nvcc
def test_our_declarations_are_those_of_the_driver(tmp_path):
    """Every function's type, and every constant, against the toolkit's cuda.h."""
    header = next(Path(shutil.which("nvcc")).resolve().parents[1].glob("**/include/cuda.h"), None)
    header = header or Path("/usr/local/cuda/include/cuda.h")
    source = tmp_path / "agree.cc"
    source.write_text(
        """
#include <cuda.h>
#include "driver.h"
using namespace pstmo_edge::cuda;
// Handles and enumerations have types of their own there, of the same size and passed alike: pointers and ints.
template <typename T> struct Passed { using Type = T; };
template <typename T> struct Passed<T*> { using Type = void*; };
template <> struct Passed<CUresult> { using Type = int; };
template <> struct Passed<CUdevice_attribute> { using Type = int; };
template <> struct Passed<CUfunction_attribute> { using Type = int; };
template <> struct Passed<CUstreamCaptureMode> { using Type = int; };
template <typename F> struct Form;
template <typename R, typename... A> struct Form<R (*)(A...)> {
  using Type = typename Passed<R>::Type (*)(typename Passed<A>::Type...);
};
template <typename A, typename B> constexpr bool alike() {
  return std::is_same_v<typename Form<A>::Type, typename Form<B>::Type>;
}
#define CHECK(member, name, parameters) \\
  static_assert(alike<decltype(Driver::member), decltype(&NAME_##member)>(), name);
"""
        + "".join(f"#define NAME_{member} {name}\n" for member, name in _functions())
        + """
PSTMO_EDGE_CUDA_FUNCTIONS(CHECK)
static_assert(kOutOfMemory == CUDA_ERROR_OUT_OF_MEMORY && kInvalidImage == CUDA_ERROR_INVALID_IMAGE);
static_assert(kNoBinaryForGpu == CUDA_ERROR_NO_BINARY_FOR_GPU && kSuccess == CUDA_SUCCESS);
static_assert(kNotInitialized == CUDA_ERROR_NOT_INITIALIZED && kNotFound == CUDA_ERROR_NOT_FOUND);
constexpr int kLaunches[] = {CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_LAUNCH_TIMEOUT, CUDA_ERROR_HARDWARE_STACK_ERROR,
  CUDA_ERROR_ILLEGAL_INSTRUCTION, CUDA_ERROR_MISALIGNED_ADDRESS, CUDA_ERROR_INVALID_ADDRESS_SPACE,
  CUDA_ERROR_INVALID_PC, CUDA_ERROR_LAUNCH_FAILED};
constexpr bool all_are_final() {
  for (int i = 0; i < 8; ++i) if (kFinal[i + 1] != kLaunches[i]) return false;
  return true;
}
static_assert(all_are_final());
static_assert(kMajor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(kMinor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(kMultiprocessors == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
static_assert(kCooperativeLaunch == CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH);
static_assert(kMaxDynamicShared == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
static_assert(kNonBlocking == CU_STREAM_NON_BLOCKING);
static_assert(kCaptureThreadLocal == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
"""
    )
    folders = [f"-I{folder}" for folder in (header.parent, ROOT / "kernels/cuda", ROOT / "kernels/include")]
    command = ["c++", "-std=c++17", "-fsyntax-only", *folders, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _functions():
    """(member, the driver's name) of every function in driver.h."""
    found = re.findall(r'X\((\w+), "(cu\w+)"', (ROOT / "kernels/cuda/driver.h").read_text())
    assert len(found) > 30
    return found
