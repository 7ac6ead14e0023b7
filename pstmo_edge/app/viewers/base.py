"""The interface of a viewer, what all are told at opening, and how one is opened.

A viewer module has `open_viewer(target, settings)` that returns a `Viewer`; nothing of it is imported before that.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from pstmo_edge.app.types import View
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.naming import unknown
from pstmo_edge.skeletons import HUMAN36M, Skeleton


class Viewer(Protocol):
    """Shows what became ready. Called from one thread."""

    def show(self, view: View) -> None:
        """Show one frame and the poses that became ready with it; never waits for who looks at it."""
        ...

    def close(self) -> None:
        """Nothing more comes: a file is complete when this returns. A second call does nothing."""
        ...


@dataclass(frozen=True)
class ViewerSettings:
    """What every viewer is told.

    `keypoints` is the joint set of `PersonPose.keypoints` (the engine's input), `poses` that of its poses. `lookahead`
    are the seconds that a pose waits for later frames, `fps` the source's frames a second. `force` replaces files.
    `z_up`: poses and roots are in a world frame (z up, y where the camera looks) instead of the camera's (y down).
    """

    keypoints: Skeleton = HUMAN36M
    poses: Skeleton = HUMAN36M
    lookahead: float = 0.0
    fps: float = 30.0
    force: bool = False
    z_up: bool = False


@dataclass(frozen=True)
class Entry:
    """One line of the table: the package a viewer needs, the extra that brings it, and the suffixes of its files."""

    package: str
    extra: str
    suffixes: tuple[str, ...] = ()


VIEWERS = {
    "rerun": Entry("rerun", "view", (".rrd",)),
    "video": Entry("av", "app", (".mp4", ".mkv", ".mov")),
    "web": Entry("PIL", "app"),
}


def open_viewer(spec: str, settings: ViewerSettings) -> Viewer:
    """Open what `spec` names.

    - "rerun": rerun's own window on this machine; "rerun:rerun+http://HOST:PORT/proxy": one that runs elsewhere;
    - a file ending in .rrd: a recording that rerun opens; in .mp4, .mkv or .mov: a video with the poses beside it;
    - "web", "web:PORT" or "web:ADDRESS:PORT": a page for browsers, on this machine alone unless an address is given.

    Raises UsageError for anything else and for a file that is there, BackendError where a package is missing.
    """
    name, target = check(spec, settings)
    viewer: Viewer = import_module(f"pstmo_edge.app.viewers.{name}").open_viewer(target, settings)
    return viewer


def check(spec: str, settings: ViewerSettings) -> tuple[str, str]:
    """What `open_viewer` refuses without opening anything; the viewer's name and what it is given."""
    name, target = _named(spec)
    entry = VIEWERS[name]
    if find_spec(entry.package) is None:
        raise BackendError(
            f"the {name} viewer needs a package not installed here: pip install 'pstmo-edge[{entry.extra}]'"
        )
    if target and Path(target).suffix in entry.suffixes:
        _check_file(Path(target), settings.force)
    return name, target


def _named(spec: str) -> tuple[str, str]:
    """("rerun", "walk.rrd") of "walk.rrd": the viewer and what it is given."""
    suffix = Path(spec).suffix.lower()
    for name, entry in VIEWERS.items():
        if suffix in entry.suffixes:
            return name, spec
    name, _, target = spec.partition(":")
    if name not in ("rerun", "web"):
        suffixes = [suffix for entry in VIEWERS.values() for suffix in entry.suffixes]
        raise unknown("viewer", spec, ("rerun", "web", *(f"FILE{suffix}" for suffix in suffixes)))
    return name, target


def _check_file(path: Path, force: bool) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already: give --force to replace it, or another name")
