"""The report's page as people use it, in a real headless Chromium: sorting, tips, turning, widths, colour schemes."""

import json
import math
import re

import numpy as np
import pytest
from browser import webdriver

from pstmo_edge.benchmarks import looks, page
from pstmo_edge.benchmarks.moments import PITCH_DEGREES, YAW_DEGREES
from pstmo_edge.skeletons import HUMAN36M

WIDE, NARROW = 1280, 380


class Visit:
    """One page in the browser, as wide as asked for, and what the browser had to say about it."""

    def __init__(self, driver, path):
        self.driver, self.url = driver, path.as_uri()
        self._console, self._requests = [], []

    def open(self, width=WIDE, scheme="light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        chosen = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": chosen})
        self.driver.get(self.url)
        return self

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def js(self, script, *values):
        return self.driver.execute_script(script, *values)

    def hover(self, element):
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        webdriver.ActionChains(self.driver).move_to_element(element).perform()

    def leave(self):
        self.hover(self.one("h1"))

    def drag(self, element, across, down):
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        chain = webdriver.ActionChains(self.driver).click_and_hold(element)
        for _ in range(4):
            chain = chain.move_by_offset(across // 4, down // 4)
        chain.release().perform()

    def click(self, element):
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    @property
    def tips(self):
        return [tip.text for tip in self.all(".tip") if tip.is_displayed()]

    @property
    def console(self):
        """All the console has said so far."""
        self._console += [entry["message"] for entry in self.driver.get_log("browser")]
        return self._console

    @property
    def requests(self):
        """All addresses the page has asked for so far; Chromium's own pages are not this one's matter."""
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent" and event["params"]["documentURL"] == self.url:
                self._requests.append(event["params"]["request"]["url"])
        return self._requests


@pytest.fixture
def visit(driver, tmp_path):
    """Opens a report's page; whatever a test does to it, it may neither ask for anything nor complain."""
    visits = []

    def make(shown, width=WIDE, scheme="light"):
        path = tmp_path / "index.html"
        path.write_text(page.render(shown), encoding="utf-8")
        visits.append(Visit(driver, path))
        assert isinstance(visits[0].requests, list)  # what earlier pages asked for is not this one's
        visits[-1].console.clear()
        visits[-1].requests.clear()
        return visits[-1].open(width, scheme)

    yield make
    for each in visits:
        assert each.console == []
        assert set(each.requests) == {each.url}, "the page needs nothing but itself"


def column(visit, heading):
    """(texts, numbers) of a column from top to bottom, a number None where there is none."""
    found = visit.js(
        """const heads = [...document.querySelectorAll('.rows thead th')];
        const at = heads.findIndex((head) => head.textContent === arguments[0]);
        return [...document.querySelectorAll('.rows tbody tr')].map((row) =>
          [row.cells[at].textContent, row.cells[at].dataset.value ?? null]);""",
        heading,
    )
    return [text for text, _ in found], [None if value is None else float(value) for _, value in found]


def order(visit):
    return [int(row.get_attribute("data-row")) for row in visit.all(".rows tbody tr")]


def head(visit, heading):
    (found,) = [each for each in visit.all(".rows thead th") if each.get_property("textContent") == heading]
    return found


def sort_by(visit, heading):
    visit.click(head(visit, heading).find_element("css selector", "button"))
    return head(visit, heading).get_attribute("aria-sort")


def test_the_watch_sees_what_it_watches_for(driver, tmp_path):
    """Of a page that does both, the request and the error are noticed: the checks above can fail."""
    bad = tmp_path / "bad.html"
    bad.write_text("<script>fetch('http://127.0.0.1:9/telemetry').catch(() => {}); undefined.nothing;</script>")
    visit = Visit(driver, bad).open()
    visit.driver.implicitly_wait(0)
    assert any("Cannot read properties of undefined" in message for message in visit.console)
    assert "http://127.0.0.1:9/telemetry" in visit.requests


def test_a_click_sorts_by_number_and_unknown_comes_last(visit, many):
    seen = visit(many)
    assert order(seen) == list(range(9))
    assert sort_by(seen, "FPS") == "descending", "the best first"
    assert column(seen, "FPS")[0] == ["1500", "1102", "560", "203", "101", "99", "62", "9.0", "–"]
    assert sort_by(seen, "FPS") == "ascending"
    assert column(seen, "FPS")[0] == ["9.0", "62", "99", "101", "203", "560", "1102", "1500", "–"]
    assert sort_by(seen, "FPS") is None
    assert order(seen) == list(range(9)), "the third click brings the first order back"


def test_errors_sort_with_models_without_weights_last(visit, many):
    seen = visit(many)
    for expected in ("ascending", "descending"):
        assert sort_by(seen, "MPJPE, mm") == expected
        texts, numbers = column(seen, "MPJPE, mm")
        known = [number for number in numbers if number is not None]
        assert known == sorted(known, reverse=expected == "descending")
        assert numbers[5:] == [None] * 4
        assert set(texts[5:]) == {"no weights", "–"}
    assert known[0] == 102.5, "as text it would come before 45"


def test_every_column_sorts(visit, many):
    seen = visit(many)
    results = seen.js(
        """const heads = [...document.querySelectorAll('.rows thead th')];
        const cells = (at) => [...document.querySelectorAll('.rows tbody tr')].map((row) => row.cells[at]);
        return heads.flatMap((head, at) => [1, 2].map(() => {
          head.querySelector('button').click();
          return {
            heading: head.textContent, kind: head.dataset.kind, order: head.ariaSort,
            sorted: document.querySelectorAll('[aria-sort]').length,
            cells: cells(at).map((cell) => cell.dataset.value ?? cell.textContent),
            unknown: cells(at).map((cell) => {
              return head.dataset.kind === 'number' ? !('value' in cell.dataset) : cell.textContent === '–';
            }),
          };
        }));"""
    )
    assert len(results) >= 2 * 22
    for found in results:
        assert found["sorted"] == 1, "one column at a time says that it is sorted"
        known = [cell for cell, unknown in zip(found["cells"], found["unknown"], strict=True) if not unknown]
        assert found["unknown"] == sorted(found["unknown"]), f"{found['heading']}: unknown ones come last"
        key = float if found["kind"] == "number" else natural
        keys = list(map(key, known))
        assert keys == sorted(keys, reverse=found["order"] == "descending"), found["heading"]
    assert {found["order"] for found in results} == {"ascending", "descending"}


def natural(text):
    """Text as it is compared: numbers in it by value."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", text)]


def test_the_keyboard_sorts_too(visit, many):
    seen = visit(many)
    button = head(seen, "p50, ms").find_element("css selector", "button")
    seen.js("arguments[0].focus()", button)
    button.send_keys("\ue007")  # Enter
    numbers = column(seen, "p50, ms")[1]
    assert numbers[:-1] == sorted(numbers[:-1])
    assert numbers[-1] is None
    assert order(seen) != list(range(9))


def test_more_columns_are_shown_on_request(visit, many):
    seen = visit(many)
    hidden = [each for each in seen.all(".rows thead th") if not each.is_displayed()]
    assert "P-MPJPE, mm" in [each.get_property("textContent") for each in hidden]
    assert "Published FPS" in [each.get_property("textContent") for each in hidden]
    seen.js("arguments[0].focus()", seen.one("#more"))
    seen.one("#more").send_keys(" ")
    assert all(each.is_displayed() for each in hidden)
    assert column(seen, "Published on")[0][:4] == ["a GPU of theirs"] * 3 + ["–"]
    style = seen.js("return getComputedStyle(document.querySelector('.rows td.published')).fontStyle")
    assert style == "italic", "what others published does not look like what was measured"


@pytest.mark.parametrize(("width", "pinned"), [(WIDE, 3), (NARROW, 1)])
def test_the_names_of_a_row_stay_in_sight(visit, many, width, pinned):
    seen = visit(many, width)
    seen.click(seen.one("#more"))
    lefts = """return [...document.querySelectorAll('.rows tbody tr:first-child > *')]
        .map((cell) => cell.getBoundingClientRect().left);"""
    before = seen.js(lefts)
    seen.js("document.querySelector('.rows').parentElement.scrollLeft = 300")
    moved = [round(old - new) for old, new in zip(before, seen.js(lefts), strict=True)]
    assert moved[:pinned] == [0] * pinned
    assert moved[6:] == [300] * len(moved[6:])


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_mark_tells_its_row(visit, many, width):
    seen = visit(many, width)
    mark = seen.one(f".scatter.{'wide' if width == WIDE else 'narrow'} .mark[data-row='2']")
    assert seen.tips == []
    seen.hover(mark.find_element("css selector", ".dot"))
    (tip,) = seen.tips
    assert tip.split("\n")[0] == "p-stmo-s 27 onnxruntime int8"
    for name, figure in (("MPJPE, mm", "45.30"), ("Change, mm", "+0.05"), ("FPS", "1102"), ("p50, ms", "0.91")):
        assert f"{name}\n{figure}" in tip
    assert "chosen" in seen.one(".rows tr[data-row='2']").get_attribute("class")
    box, room = seen.one(".tip").rect, seen.one(".plot").rect
    assert room["x"] <= box["x"] < box["x"] + box["width"] <= room["x"] + room["width"]
    assert room["y"] <= box["y"] < box["y"] + box["height"] <= room["y"] + room["height"]
    seen.leave()
    assert seen.tips == []
    assert seen.all(".chosen") == []


def test_marks_that_were_not_measured_say_so(visit, many):
    seen = visit(many)
    seen.hover(seen.one(".scatter.wide .cited .dot"))
    assert seen.tips == [
        "p-stmo-s 27, published\nMPJPE, mm\n43\nFPS\n3504\nOn\na GPU of theirs\nNot measured here"
    ]  # fmt: skip
    seen.hover(seen.one(".scatter.wide .mark[data-row='5'] .dot"))
    (tip,) = seen.tips
    assert "anatomy3d 27 onnxruntime int8\nMPJPE, mm\nno weights" in tip


def test_the_keyboard_reaches_marks_and_escape_leaves_them(visit, many):
    seen = visit(many)
    seen.js("arguments[0].focus()", seen.one(".scatter.wide .mark[data-row='1']"))
    assert seen.tips[0].startswith("p-stmo-s 27 onnxruntime fp32")
    webdriver.ActionChains(seen.driver).send_keys("\ue00c").perform()  # Escape
    assert seen.tips == []


def test_latencies_tell_their_percentiles(visit, many):
    seen = visit(many)
    seen.hover(seen.one(".latency.wide .mark[data-row='0'] .dot"))
    (tip,) = seen.tips
    spread = many.rows[0].percentiles_ms
    assert f"median, ms\n{spread[10]:.1f}" in tip
    assert f"p95, ms\n{spread[19]:.1f}" in tip
    assert len(seen.all(".latency.wide .mark")) == 8, "all that were timed"


def test_a_row_of_the_table_lights_its_marks(visit, many):
    seen = visit(many)
    seen.hover(seen.one(".rows tr[data-row='6'] td"))
    lit = {mark.get_attribute("data-row") for mark in seen.all(".mark.chosen")}
    assert lit == {"6"}


def coordinates(visit, pose):
    """(17, 2) pixels of a pose's joints in the first picture, read off its lines; the root last so that it is set."""
    lines = visit.js(
        """return [...document.querySelectorAll(`.moment .skeleton[data-pose=${arguments[0]}]:not(.ghost)`)][0]
        .querySelectorAll('line').values().map((line) => [line.dataset.a, line.dataset.b,
          ...['x1', 'y1', 'x2', 'y2'].map((name) => line.getAttribute(name))].map(Number)).toArray();""",
        pose,
    )
    assert len(lines) == len(HUMAN36M.bones)
    found = np.full((17, 2), np.nan)
    for a, b, x1, y1, x2, y2 in lines:
        found[int(a)], found[int(b)] = (x1, y1), (x2, y2)
    return found


def expected(report, yaw, pitch):
    """The same by the projection that the PNG is drawn with."""
    seen = looks.centred_projections(report.moments[0], yaw, pitch)
    return [100 + points / looks.pose_radius(report.moments) * 100 for points in seen]


def angles(visit):
    return tuple(float(visit.one(f"#{name}").get_property("value")) for name in ("yaw", "pitch"))


def test_dragging_turns_and_tilts_the_poses(visit, report):
    seen = visit(report)
    before = {pose: coordinates(seen, pose) for pose in ("predicted", "true", "flat")}
    for pose, wanted in zip(("predicted", "true"), expected(report, YAW_DEGREES, PITCH_DEGREES), strict=True):
        np.testing.assert_allclose(before[pose], wanted, atol=0.06)
    seen.drag(seen.one(".moment"), across=80, down=40)
    assert angles(seen) == (YAW_DEGREES - 40, PITCH_DEGREES + 20), "half a degree a pixel, what is near follows"
    for pose, wanted in zip(("predicted", "true"), expected(report, *angles(seen)), strict=True):
        np.testing.assert_allclose(coordinates(seen, pose), wanted, atol=0.06)
        assert np.abs(coordinates(seen, pose) - before[pose]).max() > 3
    np.testing.assert_array_equal(coordinates(seen, "flat"), before["flat"], "the 2D input stays as it was seen")
    seen.click(seen.one("#back"))
    assert angles(seen) == (YAW_DEGREES, PITCH_DEGREES)
    np.testing.assert_allclose(coordinates(seen, "true"), before["true"], atol=0.01)


def test_sliders_turn_the_poses_from_the_keyboard(visit, report):
    seen = visit(report)
    for name, times in (("yaw", 9), ("pitch", 5)):
        slider = seen.one(f"#{name}")
        seen.js("arguments[0].focus()", slider)
        slider.send_keys("\ue014" * times)  # arrow to the right
    assert angles(seen) == (YAW_DEGREES + 9, PITCH_DEGREES + 5)
    np.testing.assert_allclose(coordinates(seen, "predicted"), expected(report, *angles(seen))[0], atol=0.06)


def test_without_a_held_button_nothing_turns(visit, report):
    seen = visit(report)
    picture = seen.one(".moment")
    seen.hover(picture)
    webdriver.ActionChains(seen.driver).move_by_offset(40, 10).perform()
    assert angles(seen) == (YAW_DEGREES, PITCH_DEGREES)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, 768, WIDE])
@pytest.mark.parametrize("which", ["report", "many"])
def test_the_page_fits_any_width(visit, request, which, width, scheme):
    seen = visit(request.getfixturevalue(which), width, scheme)
    seen.click(seen.one("#more"))
    inside, outside = seen.js("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert inside <= outside
    charts = [chart.get_attribute("class") for chart in seen.all(".scatter") if chart.is_displayed()]
    assert charts == ["chart scatter narrow" if width == NARROW else "chart scatter wide"]
    wrong = seen.js(
        """return [...document.querySelectorAll('h1, h2, p, figure, .plot, .scroll, dl, details, .actions')]
        .filter((each) => each.offsetParent && (each.getBoundingClientRect().left < 0
          || each.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5))
        .map((each) => each.outerHTML.slice(0, 80));"""
    )
    assert wrong == []


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_text_of_the_charts_is_whole_and_labels_do_not_cover_each_other(visit, many, width):
    """With the fonts that are really there, not with estimated widths."""
    seen = visit(many, width)
    boxes = seen.js(
        """return [...document.querySelectorAll('.chart')].filter((chart) => chart.getClientRects().length)
        .map((chart) => [chart.getBoundingClientRect(), [...chart.querySelectorAll('text')]
          .map((text) => [text.textContent, text.getBoundingClientRect()])]);"""
    )
    assert len(boxes) == 2
    for room, texts in boxes:
        assert len(texts) > 8
        for text, box in texts:
            assert room["left"] <= box["left"] < box["right"] <= room["right"], text
        for number, (text, box) in enumerate(texts):
            for other_text, other in texts[number + 1 :]:
                assert not overlap(box, other), f"{text!r} covers {other_text!r}"


def overlap(one, other):
    across = min(one["right"], other["right"]) - max(one["left"], other["left"])
    down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    return across > 1 and down > 4  # boxes of text are taller than its letters


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes(visit, many, scheme):
    """WCAG's contrast: 4.5 for text."""
    seen = visit(many, WIDE, scheme)
    seen.click(seen.one("#more"))
    backdrop = luminance(seen.js("return getComputedStyle(document.body).backgroundColor"))
    assert backdrop > 0.9 if scheme == "light" else backdrop < 0.05
    found = seen.js(
        """const painted = (each) => getComputedStyle(each).backgroundColor !== 'rgba(0, 0, 0, 0)';
        const behind = (each) => painted(each) ? getComputedStyle(each).backgroundColor : behind(each.parentElement);
        return [...document.querySelectorAll('h1, p, td, th, b, i, span, dt, dd, a, summary, strong, label, text')]
          .filter((each) => each.getClientRects().length && each.textContent.trim())
          .map((each) => [each.textContent.slice(0, 40), getComputedStyle(each)[
            each.tagName === 'text' ? 'fill' : 'color'], behind(each)]);"""
    )
    assert len(found) > 150
    for text, colour, behind in found:
        lighter, darker = sorted((luminance(colour), luminance(behind)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, f"{text!r}: {colour} on {behind}"


def luminance(colour):
    """Relative luminance of a computed colour, after WCAG 2."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else math.pow((value + 0.055) / 1.055, 2.4) for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_of_a_report_stays_text(visit, report):
    seen = visit(report)
    assert len(seen.all("script")) == 1
    assert "refused: <script>alert('x')</script> & more" in seen.one(".trouble").text


def test_no_other_script_runs(driver, report, tmp_path):
    """Should escaping ever fail, the page's policy stops what got in."""
    path = tmp_path / "index.html"
    planted = "<script>document.title = 'planted'</script><img src='x' onerror='document.title = 1'>"
    path.write_text(page.render(report).replace("<main>", f"<main>{planted}"), encoding="utf-8")
    seen = Visit(driver, path).open()
    assert driver.title == "p-stmo-s, 9 frames: pstmo-edge benchmark"
    assert any("Content Security Policy" in message for message in seen.console)
    assert sort_by(seen, "FPS") == "descending", "the page's own script does run"


def test_a_report_without_poses_and_without_times_works_too(visit, no_moments):
    seen = visit(no_moments)
    assert seen.all(".moment") == seen.all("#yaw") == seen.all(".latency") == []
    assert sort_by(seen, "Backend") == "ascending"
