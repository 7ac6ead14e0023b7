"""The native library: its ABI where it was built, and a clear answer where it was not."""

import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from pstmo_edge import _version
from pstmo_edge.kernels import native
from pstmo_edge.targets import features_from_cpuinfo

needs_library = pytest.mark.skipif(not native.available(), reason=f"no native library: {native.why_unavailable()}")


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forget what was loaded, before and after the test."""
    for cached in (native._load, native.cpu_features):
        cached.cache_clear()
    yield
    for cached in (native._load, native.cpu_features):
        cached.cache_clear()


def loaded() -> ctypes.CDLL:
    lib = native.library()
    assert lib is not None
    return lib


@needs_library
def test_the_library_has_the_version_of_the_package() -> None:
    assert native.version() == _version.__version__
    assert native.why_unavailable() is None
    path = native.path()
    assert path is not None
    assert path.is_file()


@needs_library
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
def test_cpu_features_are_those_that_linux_lists() -> None:
    listed = features_from_cpuinfo(Path("/proc/cpuinfo").read_text(), platform.machine())
    assert native.cpu_features() == listed


@needs_library
def test_every_feature_has_one_name_and_unknown_numbers_have_none() -> None:
    lib = loaded()
    features = native._CpuFeatures(size=ctypes.sizeof(native._CpuFeatures))
    assert lib.pstmo_edge_cpu_features_read(ctypes.byref(features)) == 0
    names = [lib.pstmo_edge_cpu_feature_describe(i) for i in range(features.count)]
    assert len(set(names)) == features.count
    assert features.present >> features.count == 0
    assert all(lib.pstmo_edge_cpu_feature_describe(i) is None for i in (features.count, 2**32 - 1))


@needs_library
@pytest.mark.parametrize("size", [0, 4, 15])
def test_a_struct_that_is_too_small_is_refused_and_left_alone(size: int) -> None:
    lib = loaded()
    features = native._CpuFeatures(size=size, count=7, present=9)
    status = lib.pstmo_edge_cpu_features_read(ctypes.byref(features))
    assert b"size field" in lib.pstmo_edge_status_describe(status)
    assert (features.size, features.count, features.present) == (size, 7, 9)
    assert lib.pstmo_edge_version_read(ctypes.byref(native._Version(size=size))) == status


@needs_library
def test_a_larger_struct_of_a_newer_caller_is_accepted() -> None:
    version = native._Version(size=ctypes.sizeof(native._Version) + 8)
    assert loaded().pstmo_edge_version_read(ctypes.byref(version)) == 0


@needs_library
def test_null_is_refused() -> None:
    lib = loaded()
    status = lib.pstmo_edge_version_read(None)
    assert b"null" in lib.pstmo_edge_status_describe(status)
    assert lib.pstmo_edge_cpu_features_read(None) == status
    assert lib.pstmo_edge_status_describe(12345) == b"unknown status"


@pytest.mark.usefixtures("fresh")
def test_without_the_library_everything_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_find", lambda: None)
    assert native.library() is None
    assert not native.available()
    assert native.version() is None
    assert native.path() is None
    assert native.cpu_features() == frozenset()
    assert "C++ compiler" in (native.why_unavailable() or "")


@pytest.mark.usefixtures("fresh")
def test_a_file_that_is_no_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "libpstmo_edge.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setenv(native.LIBRARY_VARIABLE, str(broken))
    assert native.library() is None
    assert str(broken) in (native.why_unavailable() or "")


@needs_library
@pytest.mark.usefixtures("fresh")
def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "__version__", "99.0.0")
    assert native.library() is None
    assert "99.0.0" in (native.why_unavailable() or "")
