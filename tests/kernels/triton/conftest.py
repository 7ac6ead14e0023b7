"""The kernels on a CPU: triton looks at this variable when they are defined, so it is set before they are loaded."""

import os
from importlib.util import find_spec

os.environ["TRITON_INTERPRET"] = "1"

# The `dev` extra brings triton on Linux, which is all that it runs on.
collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]
