"""The native library as others build, install and use it: its own tests, its size, and the examples."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from native_build import ROOT, native_build, native_bundle, run

import pstmo_edge as pe
from pstmo_edge.cameras import denormalise_screen

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What `cmake --install` gives."""
    prefix = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", native_build(), "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def keypoints(tmp_path_factory) -> Path:
    """A keypoint file made from the first take of the bundled motion."""
    sequence = min(pe.load_sequences("cmu-mocap", "test"), key=len)
    pixels = denormalise_screen(sequence.keypoints[:60], sequence.image_size)
    frames = np.concatenate([pixels, np.ones((*pixels.shape[:2], 1))], axis=2).reshape(len(pixels), -1)
    times = np.arange(len(frames))[:, None] / sequence.fps
    path = tmp_path_factory.mktemp("keypoints") / "keypoints.csv"
    np.savetxt(path, np.concatenate([times, frames], axis=1), delimiter=",", fmt="%.9g")
    return path


def library_in(prefix: Path) -> Path:
    return next(prefix.glob("lib*/**/libpstmo_edge.so.*.*.*"))


def test_the_native_tests_pass():
    """The short native tests; `cmake --preset asan` and `tsan` run the same under sanitizers."""
    said = run("ctest", "--test-dir", native_build(), "--output-on-failure", "-LE", "long")
    assert "100% tests passed" in said


def test_the_library_is_small_and_needs_the_c_and_cpp_runtimes_alone(installed, tmp_path):
    stripped = tmp_path / "stripped.so"
    run("strip", "-o", stripped, library_in(installed))
    assert stripped.stat().st_size < MEGABYTE
    needed = [
        line.split("[")[1].rstrip("]") for line in run("readelf", "-d", stripped).splitlines() if "NEEDED" in line
    ]
    names = {name.partition(".so")[0] for name in needed}
    assert "libc" in names
    assert names <= {"libc", "libm", "libpthread", "libstdc++", "libgcc_s", "ld-linux-x86-64", "ld-linux-aarch64"}


def test_only_the_abi_is_exported(installed):
    symbols = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library_in(installed)).splitlines()]
    names = {symbol.partition("@")[0] for symbol in symbols}
    assert "pstmo_edge_stream_push" in names
    assert {name for name in names if not name.startswith(("pstmo_edge_", "PSTMO_EDGE_0"))} == set()


def poses_of(program: Path, bundle: Path, keypoints: Path, prefix: Path) -> np.ndarray:
    """Run an example; return its poses (L, 17, 3)."""
    folder = library_in(prefix).parent
    done = subprocess.run(
        [program, bundle, keypoints, "1920", "1080", "50"],
        env=os.environ | {"LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "0 dropped, 0 rejected" in done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert all(line[1] == "valid" for line in lines)
    return np.array([line[2:] for line in lines], np.float32).reshape(-1, 17, 3)


def expected_poses(bundle: Path, keypoints: Path) -> np.ndarray:
    rows = np.loadtxt(keypoints, delimiter=",")
    stream = pe.load_engine(bundle).stream((1920, 1080), 50)
    results = [stream.push(row[1:].reshape(17, 3), row[0]) for row in rows]
    return np.array([result.pose for result in results])


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="needs pkg-config")
@pytest.mark.parametrize(
    ("compiler", "standard", "source"), [("cc", "c11", "c/camera.c"), ("c++", "c++17", "cpp/camera.cc")]
)
def test_one_command_compiles_an_example_against_the_installed_library(
    installed, keypoints, tmp_path, compiler, standard, source
):
    folder = library_in(installed).parent
    environment = os.environ | {"PKG_CONFIG_PATH": str(folder / "pkgconfig")}
    program = tmp_path / "camera"
    # The command in the example's own comment, with every warning an error.
    command = f"{compiler} -std={standard} -Wall -Wextra -Wpedantic -Werror {ROOT}/examples/{source} -o {program} "
    command += "$(pkg-config --cflags --libs pstmo_edge)"
    subprocess.run(["sh", "-c", command], check=True, env=environment)
    bundle = native_bundle("tiny")
    found = poses_of(program, bundle, keypoints, installed)
    assert len(found) == 60
    np.testing.assert_allclose(found, expected_poses(bundle, keypoints), atol=6e-5)  # four decimals are printed


def test_find_package_finds_the_shared_and_the_static_library(installed, keypoints, tmp_path):
    run("cmake", "-S", ROOT / "examples", "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={installed}")
    run("cmake", "--build", tmp_path)
    bundle = native_bundle("tiny")
    expected = expected_poses(bundle, keypoints)
    for name in ("camera_c", "camera_cpp", "camera_c_static"):
        np.testing.assert_allclose(poses_of(tmp_path / name, bundle, keypoints, installed), expected, atol=6e-5)


def test_an_example_says_what_is_wrong(installed, keypoints, tmp_path):
    run("cmake", "-S", ROOT / "examples", "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={installed}")
    run("cmake", "--build", tmp_path, "--target", "camera_c", "camera_cpp")
    for name in ("camera_c", "camera_cpp"):
        done = subprocess.run(
            [tmp_path / name, "/none", keypoints, "1920", "1080", "50"], capture_output=True, text=True
        )
        assert done.returncode == 1
        assert "no such folder" in done.stderr
        assert subprocess.run([tmp_path / name], capture_output=True).returncode == 2
