"""Provenance, and how light the package is."""

import json
import subprocess
import sys

from pstmo_edge.benchmarks import provenance

PROGRAM = """
import json, sys
import pstmo_edge.benchmarks.harness, pstmo_edge.benchmarks.tables, pstmo_edge.benchmarks.page
import pstmo_edge.benchmarks.plots
print(json.dumps(sorted(sys.modules)))
"""
HEAVY = {"torch", "onnxruntime", "openvino", "onnx", "matplotlib", "plotly", "scipy"}


def test_import_is_light():
    answer = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in json.loads(answer.stdout)}
    assert loaded.isdisjoint(HEAVY), loaded & HEAVY


def test_it_says_where_and_how(settings):
    found = provenance.collect(settings)
    assert json.loads(json.dumps(found, allow_nan=False)) == found | {
        "settings": json.loads(json.dumps(found["settings"]))
    }
    assert found["cores"] >= 1
    assert found["runtimes"]["torch"]
    assert found["settings"]["max_drop_mm"] == 1.0
    assert found["threads"]["asked"] is None


def test_threads_in_words(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    counts = provenance.thread_counts(None, 2)
    assert counts["OMP_NUM_THREADS"] == "3"
    assert provenance.describe_threads(counts) == "each runtime's own threads on 2 cores"
    assert provenance.describe_threads(provenance.thread_counts(1, 2)) == "1 thread"


def test_vnni():
    assert provenance.lacks_vnni({"cpu_features": ["avx2", "fma"]})
    assert not provenance.lacks_vnni({"cpu_features": ["avx2", "vnni"]})
    assert not provenance.lacks_vnni({"cpu_features": ["neon", "dotprod"]})


def test_a_commit_is_read_from_a_checkout_of_these_sources_only(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        subprocess.run(["git", *identity, "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "benchmarks" / "provenance.py"))
    git("init")
    assert provenance.commit() is None, "no pyproject.toml: this is somebody else's repository"
    (tmp_path / "pyproject.toml").write_text("a = 1\n")
    assert provenance.commit() is None, "no commit yet"
    git("add", ".")
    git("commit", "-m", "first")
    clean = provenance.commit()
    assert len(clean) == 12
    (tmp_path / "pyproject.toml").write_text("a = 2\n")
    assert provenance.commit() == clean + "+changes"
