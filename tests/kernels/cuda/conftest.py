"""The CUDA engine without a GPU: a stand-in for the driver computes every launch on the host (tests/native)."""

import os
from importlib.util import find_spec

os.environ["TRITON_INTERPRET"] = "1"  # as in tests/kernels/triton: whichever loads triton first decides

# The `dev` extra brings triton on Linux, which is all that it runs on.
collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]
