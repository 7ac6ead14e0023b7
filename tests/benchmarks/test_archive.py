"""Results as files, named by device and by what was measured."""

import dataclasses
import json

import pytest
from jetson_trees import write_board

from pstmo_edge import cli, cli_bench
from pstmo_edge.benchmarks import archive
from pstmo_edge.benchmarks.comparison import read_report
from pstmo_edge.benchmarks.devices import read_device

H100 = "NVIDIA H100 80GB HBM3, 550.90, 81559 MiB"  # name, driver and memory, as nvidia-smi says them
SETTINGS = {"scenario": "single-stream", "streams": 8, "flip": False}


@pytest.mark.parametrize(
    ("values", "slug"),
    [
        ({"cpu": "AMD EPYC", "cores": 2}, "amd-epyc-2-cores"),
        ({"cpu": "Intel(R) N100", "cores": 1, "gpus": []}, "intel-n100-1-core"),
        (
            {
                "cpu": "Intel(R) Xeon(R) Gold 6430",
                "cores": 16,
                "gpus": ["NVIDIA H100 80GB HBM3, 550.90, 81559 MiB"] * 2,
            },
            "intel-xeon-gold-6430-16-cores-nvidia-h100-80gb-hbm3",
        ),
        (
            {"cpu": "Cortex-A76", "cores": 4, "board": "Raspberry Pi 5 Model B Rev 1.0"},
            "raspberry-pi-5-model-b-rev-1-0",
        ),
        ({"cpu": "../../etc", "cores": 1}, "etc-1-core"),
        ({"cpu": "x", "cores": 4, "board": "龍"}, "unknown"),
    ],
)
def test_a_device_is_a_folder(values, slug):
    assert archive.device_slug(values) == slug


@pytest.mark.parametrize(("board", "slug"), [("orin-nano", "orin-nano-8gb-developer-kit"), ("thor", "thor-t5000")])
def test_a_jetson_is_named_by_its_module(tmp_path, board, slug):
    write_board(tmp_path, board)
    device = read_device(tmp_path)
    assert archive.device_slug({"cpu": "ARM", "cores": 6, "device": device.to_dict(), "board": device.name}) == slug


@pytest.mark.parametrize(
    ("changes", "what", "name"),
    [
        ({}, "bench", "bench"),
        ({"scenario": "offline"}, "seed", "seed-offline"),
        ({"scenario": "multi-stream", "flip": True}, "bench", "bench-multi-stream-8-flip"),
        ({}, "p-stmo-s-27-causal", "p-stmo-s-27-causal"),
    ],
)
def test_a_run_is_a_file(changes, what, name):
    assert archive.result_name({"settings": SETTINGS | changes}, what) == name


def test_a_result_is_kept_and_found_again(report, tmp_path):
    path = archive.keep(report, tmp_path)
    assert path == tmp_path / archive.device_slug(report.provenance) / "bench.json"
    assert read_report(path) == report
    assert archive.newest("bench", tmp_path) == path
    assert archive.newest("seed", tmp_path) is None


def test_the_newest_result_counts_whatever_its_device(report, tmp_path):
    def dated(date, cpu):
        return dataclasses.replace(report, provenance={**report.provenance, "date": date, "cpu": cpu})

    old = archive.keep(dated("2026-01-02T00:00:00+00:00", "Old"), tmp_path)
    new = archive.keep(dated("2026-03-01T00:00:00+00:00", "New"), tmp_path)
    assert archive.newest("bench", tmp_path) == new
    (tmp_path / "bench.json").write_text(json.dumps(dated("2026-04-01T00:00:00+00:00", "Loose").to_dict()))
    assert archive.newest("bench", tmp_path) == tmp_path / "bench.json", "files from before devices had folders"
    assert old.is_file()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(["--table", "seed"], "seed"), (["p-stmo-s-27-causal"], "p-stmo-s-27-causal"), ([], "bench")],
)
def test_bench_keeps_its_result(report, monkeypatch, tmp_path, capsys, arguments, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pstmo_edge.benchmarks.harness.run_report", lambda *_, **__: report)
    monkeypatch.setattr(cli_bench, "_bench_cases", lambda *_: [])
    monkeypatch.setattr("sys.argv", ["pstmo-edge", "bench", *arguments, "--results", "kept"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    path = tmp_path / "kept" / archive.device_slug(report.provenance) / f"{name}.json"
    assert not stopped.value.code
    assert path.relative_to(tmp_path).as_posix() in capsys.readouterr().out
    assert read_report(path) == report
