"""The kernels on a CPU: triton looks at this variable when they are defined, so it is set before they are loaded."""

import os
from importlib.util import find_spec

import pytest

os.environ["TRITON_INTERPRET"] = "1"

# The `dev` extra brings triton on Linux, which is all that it runs on.
collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]


@pytest.fixture(scope="session")
def fused():
    """All kinds of layers at small dimensions: the interpreter takes seconds for a network of 256 channels."""
    import torch
    from gpu_samples import CHANNELS, HEADS, HIDDEN

    from pstmo_edge.models.fused import fuse
    from pstmo_edge.models.p_stmo import PSTMO, PSTMOConfig

    torch.manual_seed(0)
    return fuse(PSTMO(PSTMOConfig(frames=9, layers=1, channels=CHANNELS, hidden=HIDDEN, heads=HEADS)).eval())
