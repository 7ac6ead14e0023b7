"""pstmo-edge: 2D keypoints to 3D poses on edge devices.

Names are loaded when they are first used, so that importing the package costs milliseconds and touches no runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pstmo_edge._version import __version__

if TYPE_CHECKING:
    from pstmo_edge.building import build
    from pstmo_edge.datasets import load_sequences
    from pstmo_edge.engine import Engine, load_engine
    from pstmo_edge.evaluation import evaluate
    from pstmo_edge.models.emission import emitting
    from pstmo_edge.models.zoo import create_model, load_model

_HOMES = {
    "Engine": "engine",
    "build": "building",
    "create_model": "models.zoo",
    "emitting": "models.emission",
    "evaluate": "evaluation",
    "load_engine": "engine",
    "load_model": "models.zoo",
    "load_sequences": "datasets",
}

__all__ = [
    "Engine",
    "__version__",
    "build",
    "create_model",
    "emitting",
    "evaluate",
    "load_engine",
    "load_model",
    "load_sequences",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pstmo_edge' has no attribute {name!r}")
    value = getattr(import_module(f"pstmo_edge.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
