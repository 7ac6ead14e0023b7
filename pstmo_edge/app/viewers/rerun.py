"""rerun: picture, keypoints, 3D poses, flags, doubt and latencies on one time line, live or in a file.

Everything lies at the time of the frame it belongs to ("time", seconds of the source, and "frame"), so a pose that
came with look-ahead stands beside its own picture. Entities:

- /camera/image, /camera/image/found, /camera/image/people/N: the picture, all detections, person N's keypoints;
- /camera/image/edge: the border of the picture, which shows where keypoints come without one;
- /world/people/N: the pose, around its root where that is known, else beside the others;
- /doubt_mm/N, the mean expected error of person N's joints; /flag/N (0 valid, 1 degraded, 2 stale, 3 gap);
- /latency_ms/STAGE, /status, /events.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import rerun as rr
import rerun.blueprint as rrb
from PIL import Image

from pstmo_edge.app.types import PersonPose, View
from pstmo_edge.app.viewers import looks, rerun_window
from pstmo_edge.app.viewers.base import ViewerSettings
from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import BackendError
from pstmo_edge.skeletons import Skeleton

APPLICATION = "pstmo-edge"
QUALITY = 75  # of a JPEG: raw pictures of one hour at 720p are 300 GB
BESIDE = 1.2  # metres between people whose places are not known
AWAY, ABOVE = 3.2, 0.7  # metres from the first person to the eye, and of the eye above the person's hip
OVER_HEAD, OVER_HEAD_2D = 0.15, 0.04  # from the head to its label: metres, share of the picture
FLAGS = tuple(looks.FLAGS)


class RerunViewer:
    """Logs to a recording stream. See `Viewer`."""

    def __init__(self, recording: Any, settings: ViewerSettings) -> None:
        self._recording, self._settings = recording, settings
        self._places: dict[int, int] = {}  # of people whose roots are not known
        self._flags: dict[int, str] = {}
        self._image_size: tuple[int, int] | None = None
        self._arranged = False
        # The camera's axes are x right, y down, z forward.
        axes = rr.ViewCoordinates.RIGHT_HAND_Z_UP if settings.z_up else rr.ViewCoordinates.RDF
        self._log("world", axes, static=True)

    def show(self, view: View) -> None:
        """See `Viewer`."""
        if self._recording is None:
            return
        for pose in view.poses:
            self._at(pose.result.timestamp, pose.result.frame)
            self._show_pose(pose)
        self._at(view.frame.timestamp, view.frame.index)
        self._show_frame(view)
        for person in view.left:
            self._forget(person)
        for stage, value in view.latency_ms.items():
            self._log(f"latency_ms/{stage}", rr.Scalars(value))

    def close(self) -> None:
        """See `Viewer`."""
        if self._recording is None:
            return
        recording, self._recording = self._recording, None
        try:
            recording.flush()
            recording.disconnect()
        except RuntimeError as error:  # a full disk; a window that was closed
            raise BackendError(f"rerun did not get everything: {str(error).splitlines()[0].lower()}") from None

    def _log(self, path: str, archetype: Any, *, static: bool = False) -> None:
        self._recording.log(path, archetype, static=static)

    def _at(self, timestamp: float, frame: int) -> None:
        self._recording.set_time("time", duration=timestamp)
        self._recording.set_time("frame", sequence=frame)

    def _show_frame(self, view: View) -> None:
        if view.frame.image_size != self._image_size:
            self._image_size = view.frame.image_size
            self._log("camera/image/edge", rr.Boxes2D(mins=[(0, 0)], sizes=[self._image_size], colors=[looks.FAINT]))
        if view.frame.image is not None:
            self._log("camera/image", rr.EncodedImage(contents=_jpeg(view.frame.image), media_type="image/jpeg"))
        found = view.detections.keypoints
        seen = found[found[..., 2] >= looks.SURE] if len(found) else np.zeros((0, 3), np.float32)
        self._log(
            "camera/image/found", rr.Points2D(seen[:, :2], colors=[looks.CENTRE], radii=rr.Radius.ui_points([1.5]))
        )
        if view.status:
            self._log("status", rr.TextDocument(view.status))
        for person in view.joined:
            self._log("events", rr.TextLog(f"person {person} came", level="INFO"))

    def _show_pose(self, pose: PersonPose) -> None:
        name = f"people/{pose.person}"
        if not self._arranged:
            self._arranged = True
            self._recording.send_blueprint(layout(self._view_of(pose)))
        if pose.person not in self._flags:
            for plot in ("doubt_mm", "flag"):
                self._log(f"{plot}/{pose.person}", rr.SeriesLines(names=f"person {pose.person}"), static=True)
        if pose.keypoints is not None:
            seen = pose.keypoints[:, 2] >= looks.SURE
            self._bones(f"camera/image/{name}", pose.keypoints[:, :2], self._settings.keypoints, pose, seen)
        self._bones(f"world/{name}", pose.pose + self._place(pose), self._settings.poses, pose, None)
        self._log(f"flag/{pose.person}", rr.Scalars(FLAGS.index(pose.flag)))
        if pose.doubt_mm is not None:
            self._log(f"doubt_mm/{pose.person}", rr.Scalars(float(np.mean(pose.doubt_mm))))
        told = f"{pose.flag}{', doubtful' if pose.doubtful else ''}"
        if self._flags.get(pose.person) != told:
            self._flags[pose.person] = told
            level = "INFO" if told == "valid" else "WARN"
            self._log("events", rr.TextLog(f"person {pose.person} is {told}", level=level))

    def _bones(self, path: str, points: FloatArray, skeleton: Skeleton, pose: PersonPose, seen: Any) -> None:
        flat = points.shape[1] == 2
        kept = np.ones(len(points), bool) if seen is None else seen
        pairs = zip(skeleton.bones, looks.sides(skeleton), strict=True)
        bones = [(points[list(bone)], colour) for bone, colour in pairs if kept[list(bone)].all()]
        lines = rr.LineStrips2D if flat else rr.LineStrips3D
        dots = rr.Points2D if flat else rr.Points3D
        strips, colours = [bone for bone, _ in bones], [colour for _, colour in bones]
        thin, thick = rr.Radius.ui_points([1.5, 3.0]) if flat else [0.012, 0.018]
        self._log(f"{path}/bones", lines(strips, colors=colours, radii=[thin]))
        shown = points[kept]
        self._log(f"{path}/joints", dots(shown, colors=[looks.colour_of(pose)], radii=[thick]))
        if len(shown):
            up, gap = self._up(flat), OVER_HEAD_2D * self._image_size[1] if flat and self._image_size else OVER_HEAD
            head, colour = shown[np.argmax(shown @ up)] + gap * up, looks.colour_of(pose)
            self._log(f"{path}/name", dots([head], labels=[looks.label_of(pose)], colors=[colour], radii=[0.001]))

    def _up(self, flat: bool = False) -> FloatArray:
        """Up in the picture, or in the space of the poses."""
        if flat:
            return np.array([0.0, -1.0])
        return np.array([0.0, 0.0, 1.0] if self._settings.z_up else [0.0, -1.0, 0.0])

    def _view_of(self, pose: PersonPose) -> dict[str, Any]:
        """Of the view of the poses: an eye before the first person, and a floor where that person's feet are."""
        up, place = self._up(), self._place(pose)
        yaw = math.radians(looks.YAW)
        right, ahead = -math.sin(yaw) * AWAY, -math.cos(yaw) * AWAY
        away = np.array([right, ahead, ABOVE] if self._settings.z_up else [right, -ABOVE, ahead])
        lowest = float(np.min((pose.pose + place) @ up))
        return {
            "eye_controls": rrb.EyeControls3D(position=place + away, look_target=place, eye_up=up),
            "line_grid": rrb.LineGrid3D(spacing=0.5, plane=rr.components.Plane3D(up, lowest), color=looks.FAINT),
        }

    def _place(self, pose: PersonPose) -> FloatArray:
        """Where the root stands: where it is known, or at a place of the person's own beside the others."""
        if pose.root is not None:
            return pose.root
        taken = set(self._places.values())
        if pose.person not in self._places:
            self._places[pose.person] = next(place for place in range(len(taken) + 1) if place not in taken)
        return np.array([BESIDE * self._places[pose.person], 0.0, 0.0])

    def _forget(self, person: int) -> None:
        self._places.pop(person, None)
        self._flags.pop(person, None)
        for path in (f"camera/image/people/{person}", f"world/people/{person}"):
            self._log(path, rr.Clear(recursive=True))
        self._log("events", rr.TextLog(f"person {person} left", level="INFO"))


def _jpeg(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def layout(poses: dict[str, Any] | None = None) -> Any:
    """The picture beside the poses, curves and events below them; `poses` are settings of the poses' view."""
    what = "poses, metres; orange: the person's left"
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(
                rrb.Spatial2DView(origin="/camera/image", name="camera"),
                rrb.Spatial3DView(origin="/world", name=what, **(poses or {})),
            ),
            rrb.Horizontal(
                rrb.TimeSeriesView(origin="/doubt_mm", name="expected error, mm"),
                rrb.TimeSeriesView(
                    origin="/flag", name="0 valid, 1 degraded, 2 stale, 3 gap", axis_y=rrb.ScalarAxis(range=(-0.2, 3.2))
                ),
                rrb.TimeSeriesView(origin="/latency_ms", name="latency, ms"),
                rrb.Vertical(
                    rrb.TextDocumentView(origin="/status", name="status"),
                    rrb.TextLogView(origin="/events", name="events"),
                    row_shares=[2, 3],
                ),
            ),
            row_shares=[5, 2],
        ),
        collapse_panels=True,
    )


def open_viewer(target: str, settings: ViewerSettings) -> RerunViewer:
    """A recording at the path `target`, a viewer at its address, or (empty) a window on this machine.

    Raises BackendError where there is no viewer to be had.
    """
    recording = rr.RecordingStream(APPLICATION)
    try:
        if target.startswith(("rerun+http://", "rerun+https://")):
            recording.connect_grpc(target, default_blueprint=layout())
        elif target:
            recording.save(target, default_blueprint=layout())
        else:
            recording.connect_grpc(rerun_window.open_window(), default_blueprint=layout())
    except Exception as error:  # no window system, no free port, no permission
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BackendError(
            f"rerun cannot open {target or 'its window'}: {reason}; record a file.rrd and open it elsewhere, or use web"
        ) from error
    return RerunViewer(recording, settings)
