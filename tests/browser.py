"""A real headless Chromium for the tests of pages; a module that imports this is skipped where there is none.

Needs Chromium and its driver (Debian: `apt-get install chromium chromium-driver`) and selenium; .ci/run installs them.
"""

import shutil
from contextlib import contextmanager

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[dev]'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1100,620",
)  # fmt: skip

if CHROMIUM is None or DRIVER is None:
    pytest.skip("no Chromium with its driver here: apt-get install chromium-driver", allow_module_level=True)


@contextmanager
def opened(folder):
    """A driver whose Chromium keeps its things in `folder`, and tells what its console said and what it asked for."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
