"""What calibration and sensitivity found, kept on disk by weights, data and settings.

The folder is $PSTMO_EDGE_CACHE, or pstmo-edge in the user's cache folder; it may be removed at any time. An entry that
cannot be read or does not fit is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from pstmo_edge.arrays import FloatArray
from pstmo_edge.calib.calibrate import calibrate
from pstmo_edge.calib.emulation import EmulatedModel, Grid, IntegerLayer, copied
from pstmo_edge.calib.observers import Progress, silent
from pstmo_edge.calib.sensitivity import Probes, Sensitivity, sensitivity
from pstmo_edge.calib.settings import Settings
from pstmo_edge.calib.windows import windows_key
from pstmo_edge.errors import PstmoEdgeError
from pstmo_edge.files import write_atomic

_VERSION = 4  # of what the methods compute: raise it when the same settings give other integers
_KEPT = 24  # entries; the least recently used go first


def cache_folder() -> Path:
    """Where entries are."""
    given = os.environ.get("PSTMO_EDGE_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pstmo-edge"


def calibration_key(model: nn.Module, windows: FloatArray, settings: Settings) -> str:
    """What tells one calibration from all others: SHA-256 of weights, windows and settings."""
    lifter = model.lifter
    about = {
        "version": _VERSION,
        "weights": lifter.weights_sha256,
        "model": [lifter.name, lifter.frames, repr(getattr(lifter, "emitted", None))],
        "windows": windows_key(windows),
        "settings": replace(settings, bias_correction=False).to_dict(),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def cached_calibration(
    model: nn.Module, windows: FloatArray, settings: Settings, tell: Progress = silent
) -> EmulatedModel:
    """`calibrate` of a fused model, without bias correction, which belongs to a mix of layers (`corrected`)."""
    settings = replace(settings, bias_correction=False)
    path = cache_folder() / f"calibration-{calibration_key(model, windows, settings)}.safetensors"
    found = _read(path, lambda: _opened(path, model, settings))
    if found is None:
        found = calibrate(model, windows, settings, tell)
        _write(path, _packed(found))
    return found


def cached_sensitivity(
    emulated: EmulatedModel,
    key: str,
    probes: Probes,
    live: Probes | None = None,
    tell: Progress = silent,
    *,
    wide: bool = False,
) -> Sensitivity:
    """`sensitivity` of the emulated model whose calibration has this key."""
    seen = [windows_key(array) for each in (probes, live) if each is not None for array in (each.windows, each.poses)]
    about = f"{key}{seen}{_VERSION}{sorted(emulated.layers)}{wide}"
    path = cache_folder() / f"sensitivity-{hashlib.sha256(about.encode()).hexdigest()}.json"
    found = _read(path, lambda: Sensitivity.from_dict(json.loads(path.read_text(encoding="utf-8"))))
    if found is None:
        found = sensitivity(emulated, probes, live, tell, wide=wide)
        _write(path, json.dumps(found.to_dict()).encode())
    return found


def _read(path: Path, read: Callable[[], Any]) -> Any:
    if not path.is_file():
        return None
    try:
        found = read()
        os.utime(path)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):
        return None
    return found


def _write(path: Path, data: bytes) -> None:
    """Keep an entry; a cache that cannot be written is no reason to fail."""
    with suppress(OSError, PstmoEdgeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        entries = sorted(path.parent.glob("*-*.*"), key=lambda entry: entry.stat().st_mtime)
        for old in entries[:-_KEPT]:
            old.unlink(missing_ok=True)


def _packed(emulated: EmulatedModel) -> bytes:
    arrays = {f"model.{name}": value.contiguous() for name, value in emulated.model.state_dict().items()}
    grids, reaches = {}, {}
    for name, layer in emulated.layers.items():
        assert isinstance(layer, IntegerLayer)
        arrays[f"layer.{name}.weight"] = layer.weight
        arrays[f"layer.{name}.scale"] = layer.weight_scale
        arrays[f"layer.{name}.bias"] = layer.bias
        grids[name] = None if layer.grid is None else vars(layer.grid)
        reaches[name] = layer.reach
    notes = {"grids": json.dumps(grids), "reaches": json.dumps(reaches)}
    return save({name: value.clone() for name, value in arrays.items()}, notes)


def _opened(path: Path, model: nn.Module, settings: Settings) -> EmulatedModel:
    equalized = copied(model)
    with safe_open(path, "pt") as file:
        grids, reaches = (json.loads(file.metadata()[name]) for name in ("grids", "reaches"))
        state = {name: file.get_tensor(f"model.{name}") for name in equalized.state_dict()}
        layers = {
            name: IntegerLayer(
                file.get_tensor(f"layer.{name}.weight"),
                file.get_tensor(f"layer.{name}.scale"),
                file.get_tensor(f"layer.{name}.bias"),
                settings.activations,
                None if grid is None else Grid(**grid),
                reach=reaches[name],
            )
            for name, grid in grids.items()
        }
    with torch.no_grad():
        equalized.load_state_dict(state)
    return EmulatedModel(equalized, layers)
