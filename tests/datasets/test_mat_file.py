"""Foreign .mat files: both kinds of format give the same arrays, and nothing in them ends this process."""

import importlib.util
from contextlib import suppress

import h5py
import numpy as np
import pytest
from mpi_inf_3dhp_files import cells
from scipy.io import savemat

from pstmo_edge.datasets import mat_file
from pstmo_edge.datasets.mat_file import read_mat
from pstmo_edge.errors import DataError

ROWS = np.arange(24.0).reshape(2, 3, 4)


@pytest.fixture
def version5(tmp_path):
    path = tmp_path / "old.mat"
    names = cells([np.arange(3), np.eye(2)])
    savemat(path, {"rows": ROWS, "cells": names, "text": "words", "flag": np.array([[True]])}, do_compression=True)
    return path


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def refused(path, *names):
    with pytest.raises(DataError) as error:
        read_mat(path, *names)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


def test_a_version_5_file_gives_plain_arrays_and_the_cells_of_cell_arrays(version5):
    found = read_mat(version5, "rows", "cells", "flag")
    assert list(found) == ["rows", "cells/0/0", "cells/1/0", "flag"]
    np.testing.assert_array_equal(found["rows"], ROWS)
    np.testing.assert_array_equal(found["cells/1/0"], np.eye(2))


def test_a_version_7_3_file_gives_the_same_axes(tmp_path):
    found = read_mat(write_hdf5(tmp_path / "new.mat", rows=ROWS.T), "rows")
    np.testing.assert_array_equal(found["rows"], ROWS)


def test_what_is_missing_is_named(version5, tmp_path):
    assert "no variable other" in refused(version5, "rows", "other")
    assert "no variable other" in refused(write_hdf5(tmp_path / "new.mat", rows=ROWS), "other")
    assert refused(tmp_path / "absent.mat", "rows").startswith("no such file")


def test_what_is_no_number_is_refused(version5, tmp_path):
    assert "text holds no numbers" in refused(version5, "text")
    assert "words holds no numbers" in refused(write_hdf5(tmp_path / "new.mat", words=np.bytes_("abc")), "words")
    with h5py.File(tmp_path / "group.mat", "w") as file:
        file.create_group("rows")
    assert "rows is no array of its own" in refused(tmp_path / "group.mat", "rows")


def test_hdf5_that_points_into_other_files_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(64)))
    write_hdf5(tmp_path / "other.mat", rows=ROWS)
    path = tmp_path / "new.mat"
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", (8,), "f8", external=[(str(secret), 0, 64)])
        file["link"] = h5py.ExternalLink(str(tmp_path / "other.mat"), "rows")
        layout = h5py.VirtualLayout(ROWS.shape, "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.mat"), "rows", ROWS.shape)
        file.create_virtual_dataset("virtual", layout)
    assert "raw is no array of its own" in refused(path, "raw")
    assert "no variable link" in refused(path, "link")
    assert "virtual is no array of its own" in refused(path, "virtual")


def test_an_array_larger_than_its_file_explains_is_refused(tmp_path):
    path = tmp_path / "bomb.mat"
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", (1 << 40,), "f8", chunks=(1024,))
    assert "allocate" in refused(path, "rows")


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
@pytest.mark.parametrize("version", ["5", "7.3"])
def test_a_damaged_file_is_one_line_and_no_crash(version5, tmp_path, damage, version):
    path = version5 if version == "5" else write_hdf5(tmp_path / "new.mat", rows=ROWS)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"hello" * 99, "empty": b""}[damage])
    assert "no usable dataset file" in refused(path, "rows")


def test_mutants_never_end_this_process(version5):
    rng = np.random.default_rng(0)
    whole = np.frombuffer(version5.read_bytes(), np.uint8)
    for _ in range(8):
        mutant = whole.copy()
        mutant[rng.integers(128, len(whole), 6)] = rng.integers(0, 256, 6)
        version5.write_bytes(mutant.tobytes())
        with suppress(DataError):
            assert all(array.dtype != object for array in read_mat(version5, "rows", "cells").values())


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL"])
def test_a_reader_that_dies_is_one_line(version5, tmp_path, monkeypatch, name):
    child = tmp_path / "child.py"
    child.write_text(f"import os, signal; os.kill(os.getpid(), signal.{name})")
    monkeypatch.setattr(mat_file, "CHILD", child)
    assert refused(version5, "rows") == (
        f"{version5} is no usable dataset file (its reader died of {name}); download it again"
    )


def test_a_reader_that_answers_with_nothing_or_a_pickle_is_refused(version5, tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    monkeypatch.setattr(mat_file, "CHILD", child)
    for script in ("", "import sys, numpy; numpy.savez(sys.argv[2], rows=numpy.array([{}]))"):
        child.write_text(script)
        assert "no usable answer" in refused(version5, "rows")


@pytest.mark.parametrize(("library", "version"), [("scipy", "5"), ("h5py", "7.3")])
def test_a_missing_library_says_what_to_install(version5, tmp_path, monkeypatch, library, version):
    path = version5 if version == "5" else write_hdf5(tmp_path / "new.mat", rows=ROWS)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else find(name))
    message = refused(path, "rows")
    assert f"needs {library}" in message
    assert message.endswith("run pip install 'pstmo-edge[data]'")
