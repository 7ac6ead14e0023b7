import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Calibrations are cached in a folder of this run, so that no test sees what an older version computed."""
    os.environ["PSTMO_EDGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def short_sequences():
    """Three short views of real held-out motion."""
    from pstmo_edge.datasets import load_sequences

    return tuple(sorted(load_sequences(), key=len)[:3])


@pytest.fixture(scope="session")
def small_model():
    """A 9-frame P-STMO-S with random weights, in evaluation mode: cheap to build and export."""
    import torch

    from pstmo_edge.models.zoo import create_model

    torch.manual_seed(0)
    return create_model("p-stmo-s", 9).eval()


@pytest.fixture(scope="session")
def small_prepared(small_model, short_sequences):
    from pstmo_edge.preparing import prepare

    return prepare(small_model, held_out=short_sequences)


@pytest.fixture(scope="session")
def small_engine(small_model, small_prepared, tmp_path_factory):
    """The folder of an fp32 ONNX Runtime bundle of the small model; tests that change it copy it first."""
    from pstmo_edge.building import build

    out = tmp_path_factory.mktemp("engines") / "small"
    build(small_model, "fp32", out=out, prepared=small_prepared)
    return out


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """One headless Chromium for all tests of pages; they ask for `driver`."""
    import browser

    with browser.opened(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def driver(chromium):
    """The browser with its own size and colours again, whatever the test before made of them."""
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    return chromium
