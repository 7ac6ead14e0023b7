"""The web viewer as people use it, in a real headless Chromium: it draws, turns, warns, and asks nobody else."""

import io
import json
import time

import numpy as np
import pytest
from browser import webdriver
from PIL import Image

from pstmo_edge.app.viewers import ViewerSettings, looks, open_viewer


@pytest.fixture
def seen(driver, views):
    """`seen(index)`: the page after a view was shown; it may neither complain nor ask anybody else."""
    viewer = open_viewer("web:0", ViewerSettings())
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(viewer.url)
    wait_for(lambda: len(viewer.events) == 1)
    made = views()

    def show(index):
        viewer.show(made[index])
        wait_for(lambda: text(driver, "#status").startswith(f"frame {index},"))
        return driver

    show.viewer, show.driver, show.views = viewer, driver, made
    yield show
    viewer.close()
    entries = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {
        event["params"]["request"]["url"] for event in entries
        if event["method"] == "Network.requestWillBeSent" and event["params"]["documentURL"].startswith("http://127")
    }  # fmt: skip
    # Browsers ask every server for its icon.
    assert asked <= {viewer.url + path for path in ("", "events", "picture", "favicon.ico")}
    refused = "Failed to load resource"  # the icon, and what ended with the viewer
    assert [entry["message"] for entry in driver.get_log("browser") if refused not in entry["message"]
            and "ERR_" not in entry["message"]] == []  # fmt: skip


def wait_for(condition):
    ends = time.monotonic() + 8
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def text(driver, selector):
    return driver.find_element("css selector", selector).text


def shot(driver, selector):
    data = driver.find_element("css selector", selector).screenshot_as_png
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def has_colour(picture, colour, at_least=12):
    return (np.abs(picture - colour).max(-1) <= 12).sum() >= at_least


def test_it_shows_picture_keypoints_poses_and_figures(seen, tmp_path):
    driver = seen(20)

    def has_picture():  # its stream opens with the first event; a picture is complete when the next one begins
        seen.viewer.show(seen.views[20])
        return driver.execute_script("return document.querySelector('#picture').naturalWidth") == 320

    wait_for(has_picture)
    assert text(driver, "#status") == "frame 20, 0.67 s, 30.0 FPS, frame 20"
    people = text(driver, "#people").split("\n")
    assert people == [
        "person 1: valid, expected error 20 mm, look-ahead 0 ms",
        "person 2: stale, doubtful, expected error 40 mm, look-ahead 0 ms",
    ]
    poses = shot(driver, "#poses")
    assert has_colour(poses, looks.LEFT)
    assert has_colour(poses, looks.RIGHT)
    assert has_colour(poses, looks.FLAGS["valid"])
    scene = shot(driver, "#scene")
    assert has_colour(scene, looks.LEFT), "keypoints lie over the picture"
    driver.save_screenshot(str(tmp_path / "page.png"))


def test_a_doubtful_pose_has_another_colour(seen):
    poses = shot(seen(10), "#poses")
    assert has_colour(poses, looks.DOUBTFUL)
    assert not has_colour(poses, looks.FLAGS["stale"])


def test_mouse_wheel_and_keys_turn_the_poses(seen):
    driver = seen(12)
    canvas = driver.find_element("css selector", "#poses")

    def view():
        return [float(value) for value in canvas.get_attribute("data-view").split()]

    assert view() == [looks.YAW, looks.PITCH, 1]
    before = shot(driver, "#poses")
    chain = webdriver.ActionChains(driver).click_and_hold(canvas)
    for _ in range(4):
        chain = chain.move_by_offset(20, 10)
    chain.release().perform()
    wait_for(lambda: view() == [looks.YAW - 40, looks.PITCH - 20, 1])
    assert np.abs(shot(driver, "#poses") - before).mean() > 1
    canvas.send_keys("\ue012")  # left
    wait_for(lambda: view()[0] == looks.YAW - 35)
    driver.execute_script(
        "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -250, cancelable: true}))", canvas
    )
    wait_for(lambda: view()[2] > 1.5)
    webdriver.ActionChains(driver).double_click(canvas).perform()
    wait_for(lambda: view() == [looks.YAW, looks.PITCH, 1])
    driver.execute_script("arguments[0].blur()", canvas)
    np.testing.assert_allclose(shot(driver, "#poses"), before, atol=16)


def test_it_warns_when_what_it_shows_is_old(seen):
    driver = seen(12)
    alert = driver.find_element("css selector", "#quiet")
    assert not alert.is_displayed()
    wait_for(alert.is_displayed)
    assert alert.text.startswith("No frame for ")
    assert alert.text.endswith("seconds: what is shown is old.")
    seen(13)
    assert not alert.is_displayed()
    seen.viewer.close()
    wait_for(lambda: alert.text == "No connection to the app: what is shown is old.")


@pytest.mark.parametrize("width", [380, 1280])
def test_nothing_is_cut_off(seen, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    seen.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver = seen(14)
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
