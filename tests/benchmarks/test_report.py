"""The report folder: JSON that comes back, pictures that are pictures, a page that escapes and needs no network."""

import dataclasses
import json
import re
import struct
import sys
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from pstmo_edge.benchmarks import columns, looks, page, plots, tables
from pstmo_edge.benchmarks.moments import project
from pstmo_edge.benchmarks.report import JSON_NAME, Report, write_report
from pstmo_edge.benchmarks.rows import Row, recommend
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.skeletons import HUMAN36M

VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Collects text and tags, and asserts that every tag is closed by its own."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.text += data

    def all(self, tag, **attributes):
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]


def png_pixels(data):
    """(width, height) and the number of different byte values, after checking signature and every checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, size, pixels = 8, None, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        size = struct.unpack(">II", body[:8]) if kind == b"IHDR" else size
        pixels += body if kind == b"IDAT" else b""
        at += 12 + length
    return size, len(set(zlib.decompress(pixels)))


def test_the_folder_is_complete(report, tmp_path):
    write_report(report, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["fps_vs_mpjpe.png", "index.html", "poses.png", "report.json"]
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["recommended"]["backend"] == "onnxruntime"
    assert written["provenance"]["cpu"] == "Fast & <Cheap> CPU"
    assert written["provenance"]["settings"]["timing"]["rounds"] == 2
    for name in ("fps_vs_mpjpe.png", "poses.png"):
        (width, height), values = png_pixels((tmp_path / "out" / name).read_bytes())
        assert width >= 1200
        assert height >= 600
        assert values > 50, "an empty picture"


def test_json_comes_back_as_it_was(report, no_moments):
    for each in (report, no_moments):
        assert Report.from_dict(json.loads(json.dumps(each.to_dict(), allow_nan=False))) == each


def test_json_of_another_schema_is_refused(report):
    with pytest.raises(UsageError, match="this report has schema 2, this version reads 1"):
        Report.from_dict({**report.to_dict(), "schema_version": 2})


def test_force_replaces_a_report_and_nothing_else(report, tmp_path):
    write_report(report, tmp_path / "out")
    with pytest.raises(UsageError, match="--force"):
        write_report(report, tmp_path / "out")
    write_report(dataclasses.replace(report, summary="new"), tmp_path / "out", force=True)
    assert json.loads((tmp_path / "out" / JSON_NAME).read_text())["summary"] == "new"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError):
        write_report(report, tmp_path / "mine", force=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_without_matplotlib_the_way_out_is_named_and_nothing_is_left(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match=r"pip install 'pstmo-edge\[build\]'"):
        write_report(report, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_page_escapes_all_text(report):
    text = page.render(report)
    parsed = Page(text)
    assert len(parsed.all("script")) == 1, "text of the report became a script"
    assert "alert('x')" not in text.replace("&#x27;", "").replace("&lt;script&gt;alert(", "")
    assert "refused: <script>alert('x')</script> & more" in parsed.text
    assert "<b>Waving</b>" in parsed.text
    assert "Fast & <Cheap> CPU" in parsed.text
    assert "toy <motion>" in parsed.text
    assert "<i>my</i> …" in parsed.text


def test_the_page_shows_every_row_and_marks_the_recommended_one(report):
    parsed = Page(page.render(report))
    rows = [found for found in parsed.all("tr") if "data-row" in found]
    assert [found["data-row"] for found in rows] == ["0", "1", "2"]
    assert [found.get("class") for found in rows] == [None, "best", None]
    assert [found["data-kind"] for found in parsed.all("th", scope="col")][:4] == ["text", "text", "text", "number"]
    assert report.summary in parsed.text
    assert report.setting in parsed.text
    for value in ("45.10", "+0.10", "3.00", "300", "5.0", "97% of the multiply-adds in INT8", "left in float: fcn.1"):
        assert value in parsed.text
    marks = [found["data-row"] for found in parsed.all("g", class_="mark")]
    assert marks == ["1", "0", "1", "0"], "a wide and a narrow chart, the failed row in neither"
    assert "Latencies" not in parsed.text, "rows without percentiles have no distribution"
    assert len(parsed.all("svg", class_="moment")) == 4


def test_the_page_needs_nothing_from_outside(report):
    parsed = Page(page.render(report))
    links = {value for _, found in parsed.tags for name, value in found.items() if name in ("src", "href")}
    assert links == {"report.json", "fps_vs_mpjpe.png", "poses.png"}
    assert "http:" not in page.render(report)
    assert "https:" not in page.render(report)
    (policy,) = parsed.all("meta", http_equiv="Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")


def test_a_report_without_any_row_that_passed_still_renders(no_moments, tmp_path):
    empty = dataclasses.replace(no_moments, rows=(Row("torch", "fp32", "failed", "no"),), summary="None.")
    write_report(empty, tmp_path / "out")
    assert not (tmp_path / "out" / "poses.png").exists()
    parsed = Page((tmp_path / "out" / "index.html").read_text())
    assert "No engine can be recommended here" in parsed.text
    assert "no row passed its check" in parsed.text
    assert png_pixels((tmp_path / "out" / "fps_vs_mpjpe.png").read_bytes())[1] > 50


def test_the_projection_is_that_of_a_viewer_who_walks_around():
    front = project(np.array([[1.0, 2.0, 3.0]]), yaw=0, pitch=0)
    np.testing.assert_allclose(front, [[1.0, 2.0]])
    side = project(np.array([[1.0, 2.0, 3.0]]), yaw=90, pitch=0)
    np.testing.assert_allclose(side, [[3.0, 2.0]], atol=1e-12)


def test_moments_are_chosen_by_rank_not_by_taste(report):
    assert [moment.percentile for moment in report.moments] == [10, 50, 75, 95]
    errors = [moment.error_mm for moment in report.moments]
    assert errors == pytest.approx([20 * 16 / 17] * 4, abs=0.01)  # the stand-in is equally wrong everywhere
    assert all(moment.predicted[0] == (0.0, 0.0, 0.0) for moment in report.moments), "the root is the origin"


def test_no_pose_leaves_its_picture_from_any_side(report):
    radius = looks.pose_radius(report.moments)
    for moment in report.moments:
        for yaw in range(-180, 181, 30):
            for seen in looks.centred_projections(moment, yaw, 12):
                assert np.abs(seen).max() <= radius


def test_left_and_right_have_their_own_colours():
    sides = {HUMAN36M.joints[joint]: looks.bone_side(joint) for joint, _ in HUMAN36M.bones}
    assert (sides["LWrist"], sides["RFoot"], sides["Head"]) == ("left", "right", "middle")


def test_plots_take_any_number_of_rows_and_moments(report):
    for count in (1, 2, 3):
        few = dataclasses.replace(report, moments=report.moments[:count])
        assert png_pixels(plots.poses(few))[1] > 50


def test_columns_that_nobody_knows_are_named_and_left_out(report, many):
    text = Page(page.render(report)).text
    assert "Jitter is the mean difference" not in text
    assert "Jitter is the mean difference" in Page(page.render(many)).text
    assert "Left out, for no row has them here: P-MPJPE, Jitter, Poses/s, Parameters, MFLOP a window" in text
    heads = re.findall(r'<th scope="col" data-kind[^>]*>([^<]*)<', page.render(many))
    assert heads[:4] == ["Model", "Backend", "Precision", "Status"]
    assert {"P-MPJPE, mm", "Jitter, ms", "MFLOP a window", "INT8 share", "Published FPS", "Published on"} <= set(heads)
    assert "Power, W" not in heads


def test_batches_have_a_column_and_poses_count(many):
    rows = [dataclasses.replace(row, batch=8, poses_per_s=row.fps and 8 * row.fps) for row in many.rows]
    shown = [column for column in columns.columns(rows) if not column.more]
    assert [column.heading for column in shown] == [
        "Model", "Precision", "Status", "MPJPE, mm", "Change, mm", "Batch", "p50, ms", "p90, ms", "p99, ms",
        "Poses/s", "Look-ahead, ms", "Size, MB",
    ]  # fmt: skip
    assert [column.text(rows[0]) for column in shown if column.heading in ("Batch", "Poses/s")] == ["8", "792"]
    assert "8 poses, median" in page.render(dataclasses.replace(many, rows=recommend(rows[:3], 1.0)))


def test_several_models_are_shown_beside_what_was_published_of_them(many):
    parsed = Page(page.render(many))
    assert "3 models on one machine" in parsed.text
    headline = (
        "Of those whose error is known, videopose3d 27 is the fastest (1500 FPS), p-stmo-s 27 the most exact (45.2 mm)"
    )
    assert headline in parsed.text
    assert tables.PUBLISHED_NOTE in parsed.text
    assert "videopose3d 27, onnxruntime int8 failed" in parsed.text
    assert "no range for <conv>" in parsed.text
    cited = parsed.all("g", class_="mark cited")
    assert len(cited) == 2, "one in each chart"
    assert all("not measured here" in found["aria-label"] for found in cited)
    assert len(parsed.all("table", class_="overview")) == 1
    assert "Published MPJPE, mm" in overview(many)
    nobody = dataclasses.replace(many, rows=tuple(dataclasses.replace(row, published=None) for row in many.rows))
    assert "Published" not in overview(nobody), "a column without a figure"
    one = dataclasses.replace(nobody, rows=nobody.rows[:6])
    assert (
        "Of those whose error is known, p-stmo-s 27 is both the fastest and the most exact"
        in Page(page.render(one)).text
    )
    timed = dataclasses.replace(many, rows=tuple(row for row in many.rows if row.weights))
    assert "Timed only: without weights there is no error to show" in Page(page.render(timed)).text


def overview(report):
    """The HTML of the table with one line a model."""
    return re.search(r'<table class="overview">.*?</table>', page.render(report), re.DOTALL)[0]


def test_a_throttled_device_is_doubted(report):
    hot = dataclasses.replace(report, provenance={**report.provenance, "throttled": ["GPU clock fell to 300 MHz"]})
    assert "The device throttled while it was measured: GPU clock fell to 300 MHz." in Page(page.render(hot)).text
