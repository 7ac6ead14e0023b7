"""The README's blocks, made from results that are there and left alone where they are not."""

import dataclasses
import json

import pytest

from pstmo_edge.benchmarks import archive, emit, emit_picture, equal_effort, readme, sequences


def page(*names):
    return "head\n" + "".join(
        f"<!-- {name}: made by benchmarks/readme.py -->\nas it was\n<!-- end of {name} -->\ntext\n" for name in names
    )


def block(text, name):
    return text.split(f"<!-- {name}: made by benchmarks/readme.py -->")[1].split(f"<!-- end of {name} -->")[0].strip()


@pytest.fixture
def rendered(monkeypatch, tmp_path):
    """A README of these blocks, made from the results below an empty folder."""

    def made(*names):
        monkeypatch.setattr(readme, "BLOCKS", {name: readme.BLOCKS[name] for name in names})
        return readme.rendered(page(*names), tmp_path)

    return made


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def mode(name, count):
    errors = {setting: {"mpjpe_mm": 40.0 + n, "mpjve_mm": 5.0} for n, setting in enumerate(emit.SETTINGS)}
    return {
        "emit": name, "mflop": 100.0, "mflop_a_pose": 100.0 / count, "lookahead_ms": [0.0, 80.0], "errors": errors,
    }  # fmt: skip


@pytest.fixture
def curve(report):
    speeds = [
        {"emit": name, "precision": precision, "poses_per_s": speed, "change_mm": 0.123}
        for name in ("centre", 3)
        for precision, speed in (("fp32", 500.0), ("int8", 900.0))
    ]
    speeds[-1]["poses_per_s"] = None  # an engine that failed
    return {
        "data": "toy motion",
        "modes": [mode("centre", 1), mode(1, 1), mode(3, 3)],
        "positions": {setting: [40.0] * 27 for setting in emit.SETTINGS},
        "speed": {"rows": speeds, "provenance": dict(report.provenance), "doubt": "The machine was busy."},
    }


def test_blocks_without_results_stay_as_they_are(rendered):
    names = ("bench", "seed", "equal-effort", "sequences", "emit")
    assert rendered(*names) == page(*names)


def test_rows_of_a_bench(rendered, report, tmp_path):
    archive.keep(report, tmp_path / archive.RESULTS)
    text = block(rendered("bench"), "bench")
    assert "| **onnxruntime** | int8 | ok |" in text
    assert "Machine: Fast & <Cheap> CPU" in text


def test_published_figures_beside_measured_ones(rendered, many, tmp_path):
    archive.keep(many, tmp_path / archive.RESULTS, "seed")
    text = block(rendered("seed"), "seed")
    (line,) = [line for line in text.splitlines() if line.startswith("| p-stmo-s 27 ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:4] == ["43.0", "3504"]
    assert "1102" in cells
    assert "Neither was measured here" in text


def test_equal_effort_is_sorted_by_error_and_knows_speeds_where_there_are_any(rendered, many, tmp_path):
    errors = {"mpjpe_mm": 60.0, "p_mpjpe_mm": 50.0}
    better = {"mpjpe_mm": 55.04, "p_mpjpe_mm": 44.0}
    models = {
        "anatomy3d": {"parameters": 1_234_567, "gt": errors, "detected": errors},
        "p-stmo-s": {"parameters": 4_600_000, "gt": better, "detected": errors},
    }
    write(tmp_path / equal_effort.RESULTS, {"data": "toy motion", "recipe": {"frames": 27}, "models": models})
    lines = block(rendered("equal-effort"), "equal-effort").splitlines()
    rows = [line for line in lines if line.startswith("| ")][2:]
    assert rows[0] == "| p-stmo-s | 4.60 | 55.0 / 44.0 | 60.0 / 50.0 | - | - | - |"
    assert rows[1].startswith("| anatomy3d | 1.23 |")
    archive.keep(many, tmp_path / archive.RESULTS, "equal-27")
    assert "| 99 | 1102 | onnxruntime int8 |" in block(rendered("equal-effort"), "equal-effort")


def test_whole_sequences(rendered, report, tmp_path):
    seconds = {"frame by frame": [9.0, 3.0, 4.0], "in batches": [2.0], "whole": [0.5]}
    row = {"model": "videopose3d", "frames": 27, "sequence_frames": 512, "difference": 3e-7, "seconds": seconds}
    row["times_faster_than"] = {"frame by frame": 8.04, "in batches": 4.0}
    found = {"batch": 64, "rounds": 3, "rows": [row], "provenance": dict(report.provenance)}
    write(tmp_path / sequences.RESULTS, found)
    text = block(rendered("sequences"), "sequences")
    assert "| videopose3d 27 | 4.00 | 2.00 | 0.50 | 8.0 | 4.0 | 3e-07 |" in text


def test_the_curve_of_many_poses_a_pass(rendered, curve, tmp_path):
    write(tmp_path / emit.RESULTS, curve)
    text = block(rendered("emit"), "emit")
    assert f"]({emit.PICTURE})" in text
    lines = text.splitlines()
    many_to_one = (
        "| 1, many-to-one | 40.00 | 41.00 | 42.00 | 43.00 | 5.00 | 0 to 80 | 100.0 | 100.0 | 500 | 900 | +0.12 |"
    )
    assert many_to_one in lines
    assert "| 1, per-frame | 40.00 | 41.00 | 42.00 | 43.00 | 5.00 | 0 to 80 | 100.0 | 100.0 | - | - | - |" in lines
    (three,) = [line for line in lines if line.startswith("| 3, per-frame |")]
    assert three.endswith("| 100.0 | 33.3 | 500 | - | - |")
    assert "Machine: Fast & <Cheap> CPU" in lines[-3]
    assert lines[-1] == "The machine was busy."


def test_the_curve_is_drawn(curve):
    image = emit_picture.curve(curve)
    assert image.startswith(b"\x89PNG")
    assert len(image) < 150_000


def test_what_was_measured_of_other_weights_is_not_used(tmp_path):
    calls = []
    path = tmp_path / "errors.json"
    for digest, expected in (("a", 1), ("a", 1), ("b", 2)):
        keep = emit.kept(path, digest)
        assert keep("gt, 3", lambda: calls.append(0) or {"plain": 1.0}) == {"plain": 1.0}
        assert len(calls) == expected


def test_the_error_of_every_position(small_model, short_sequences):
    """Against each frame's own window, position by position; padded positions do not count."""
    import torch

    from pstmo_edge import metrics
    from pstmo_edge.windows import extract_windows

    short = tuple(
        dataclasses.replace(one, keypoints=one.keypoints[:length], poses=one.poses[:length])
        for one, length in zip(short_sequences, (7, 20, 11), strict=True)
    )
    found = emit.by_position(small_model, short)
    assert set(found) == {"plain", "mirrored"}
    wanted = {}
    for one in short:
        windows = extract_windows(one.keypoints, range(len(one)), small_model.lifter.window)
        with torch.no_grad():
            poses = small_model.forward_all(torch.from_numpy(windows)).numpy()
        poses[..., 0, :] = 0
        for centre in range(len(one)):
            for place in range(9):
                frame = centre + place - 4
                if 0 <= frame < len(one):
                    error = metrics.mpjpe(poses[centre, place], one.poses[frame])
                    wanted.setdefault((metrics.action_of(one.action), place), []).append(float(error))
    actions = {action for action, _ in wanted}
    for place in range(9):
        mean = sum(sum(wanted[a, place]) / len(wanted[a, place]) for a in actions) / len(actions)
        assert found["plain"][place] == pytest.approx(mean, abs=0.01)
