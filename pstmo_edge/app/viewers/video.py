"""A video with the 3D poses beside the picture, every pose in its own frame whatever the look-ahead.

Timestamps are the source's, so a variable frame rate stays one. MP4 is written in fragments: what was written before a
power cut can be played. Frames wait for their poses at the size they are shown in: 121 frames at 30 a second, the most
that a published model waits for, are 100 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from pstmo_edge.app.types import View
from pstmo_edge.app.viewers.aligned import Aligner, Moment
from pstmo_edge.app.viewers.base import ViewerSettings
from pstmo_edge.app.viewers.canvas import Canvas, fitted
from pstmo_edge.files import WriteError

CODECS = ("libx264", "libopenh264", "mpeg4")  # the first that this build of FFmpeg has
CLOCK = Fraction(1, 90_000)
KEYFRAME = 2.0  # seconds between key frames, which is also what a power cut can cost


class VideoViewer:
    """Writes one video file. See `Viewer`."""

    def __init__(self, path: Path, settings: ViewerSettings) -> None:
        self.path, self._settings = path, settings
        self._container: Any = None
        self._stream: Any = None
        self._canvas: Canvas | None = None
        self._aligner = Aligner(settings.lookahead, self._shrunk)
        self._first: float | None = None
        self._last_pts = -1
        self._closed = False
        path.unlink(missing_ok=True)

    def show(self, view: View) -> None:
        """See `Viewer`. Raises WriteError where the disk refuses."""
        if self._canvas is None:
            given = self._settings
            self._canvas = Canvas(view.frame.image_size, given.keypoints, given.poses, z_up=given.z_up)
        for moment in self._aligner.push(view):
            self._write(moment)

    def close(self) -> None:
        """See `Viewer`. A source that gave no frame leaves no file."""
        if self._closed:
            return
        self._closed = True
        for moment in self._aligner.flush():
            self._write(moment)
        if self._container is not None:
            with _reported(self.path):
                self._container.mux(self._stream.encode())
                self._container.close()

    def _shrunk(self, image: Any) -> Any:
        assert self._canvas is not None
        return fitted(image, self._canvas.picture_size)

    def _write(self, moment: Moment) -> None:
        assert self._canvas is not None
        self._first = moment.frame.timestamp if self._first is None else self._first
        pts = round((moment.frame.timestamp - self._first) / CLOCK)
        if pts <= self._last_pts:  # a camera that came back, or a clock that was set: the video only goes forward
            self._first -= float((self._last_pts - pts) * CLOCK) + 1 / self._settings.fps
            pts = round((moment.frame.timestamp - self._first) / CLOCK)
        self._last_pts = pts
        with _reported(self.path):
            if self._container is None:
                self._open()
            frame = av.VideoFrame.from_ndarray(self._canvas.draw(moment), format="rgb24")
            frame.pts, frame.time_base = pts, CLOCK
            self._container.mux(self._stream.encode(frame))

    def _open(self) -> None:
        assert self._canvas is not None
        options = {"flush_packets": "1"}
        if self.path.suffix.lower() != ".mkv":
            options["movflags"] = "frag_keyframe+empty_moov+default_base_moof"
        self._container = av.open(str(self.path), "w", options=options)
        codec = next(name for name in CODECS if name in av.codecs_available)
        rate = max(round(self._settings.fps), 1)
        stream = self._container.add_stream(codec, rate=rate, options={"preset": "veryfast", "crf": "23"})
        stream.codec_context.max_b_frames = 0  # frames out of order would shift a fragmented file's timestamps
        stream.width, stream.height = self._canvas.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = max(round(rate * KEYFRAME), 1)
        stream.codec_context.time_base = CLOCK
        self._stream = stream


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise WriteError(f"{path} cannot be written: {error}") from error


def open_viewer(target: str, settings: ViewerSettings) -> VideoViewer:
    """A video at the path `target`."""
    return VideoViewer(Path(target), settings)
