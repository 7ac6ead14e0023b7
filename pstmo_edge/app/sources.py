"""Where frames come from: a video file, a camera, a network stream, or a file of keypoints.

A source is iterated once and gives `(Frame, Detections or None)`; detections come with files of keypoints alone. Live
sources (cameras and addresses) never end by themselves: one that is unplugged is opened again until it is back, and the
time without it is a gap for the streams, because timestamps are taken from the clock.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pstmo_edge.app import keypoint_files
from pstmo_edge.app.keypoint_files import KeypointRecording
from pstmo_edge.app.types import Detections, Frame
from pstmo_edge.cameras import denormalise_screen
from pstmo_edge.datasets import cmu_mocap, load_sequences
from pstmo_edge.errors import BackendError, DataError, UsageError

VIDEO = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".ts", ".mpg", ".mpeg", ".wmv", ".h264", ".265")
_LIVE = re.compile(r"^(rtsps?|https?|udp|tcp|rtmp|srt)://", re.IGNORECASE)
_RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)  # waits between attempts to open a lost source again; the last one repeats
_OPEN_TIMEOUT, _READ_TIMEOUT = 10.0, 5.0  # seconds, of network streams
_MOST_DAMAGED = 100  # packets in a row without a whole picture, after which a source counts as lost
_RATES = (1.0, 1000.0)
Item = tuple[Frame, Detections | None]


class Source(Protocol):
    """Frames, in order of time."""

    name: str
    fps: float
    live: bool
    reopened: int  # how often a live source was lost and came back
    damaged: int  # pictures that could not be decoded and were left out

    def __iter__(self) -> Iterator[Item]: ...

    def close(self) -> None:
        """End it from any thread; the iteration ends after the frame it is at."""
        ...


def open_source(
    name: str,
    image_size: tuple[int, int] | None = None,
    fps: float | None = None,
    skeleton: str | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Source:
    """The source called `name`: a camera's number, an address, a video file, keypoints, or the bundled "cmu-mocap".

    `image_size`, `fps` and `skeleton` are for files of keypoints that do not tell them (see `keypoint_files`); `told`
    is given a line when a live source is lost or back. Raises DataError, UsageError and BackendError.
    """
    if fps is not None and not 0 < fps <= _RATES[1]:  # also where it is no number
        raise UsageError(f"--fps is {fps:g}: give frames a second, up to {_RATES[1]:g}")
    if name == cmu_mocap.NAME:
        return KeypointSource(name, _bundled())
    if name.isdecimal():
        return VideoSource(f"/dev/video{name}", f"camera {name}", live=True, format_="v4l2", fps=fps, told=told)
    if name.startswith("/dev/video"):
        return VideoSource(name, name, live=True, format_="v4l2", fps=fps, told=told)
    if _LIVE.match(name):
        return VideoSource(name, _without_password(name), live=True, fps=fps, told=told)
    path = Path(name)
    if path.suffix.lower() in VIDEO:
        if image_size is not None or skeleton is not None:
            raise UsageError("--image-size and --skeleton are for files of keypoints: a video tells its size")
        return VideoSource(name, path.name, live=False, fps=fps, told=told)
    if path.is_dir() or path.suffix.lower() in (".json", ".npz", ".csv"):
        return KeypointSource(path.name, keypoint_files.load(path, image_size, fps, skeleton))
    if not path.exists():
        raise DataError(f"no such source: {name}; give a camera's number, an address, a video or a keypoint file")
    raise UsageError(
        f"{name}: '{path.suffix}' is no kind of source; known are videos ({', '.join(VIDEO)}), .json, .npz, .csv and "
        "OpenPose's folders"
    )


def _bundled() -> KeypointRecording:
    """The longest view of the bundled test motion, as a detector sees it."""
    view = max(load_sequences(cmu_mocap.NAME, "test", keypoints="detected"), key=len)
    assert view.confidence is not None
    assert view.image_size is not None
    pixels = denormalise_screen(view.keypoints, view.image_size)
    keypoints = np.concatenate([pixels, view.confidence[..., None]], axis=-1)
    detections = tuple(Detections(each[None], view.skeleton, (0,)) for each in keypoints)
    return KeypointRecording(
        np.arange(len(keypoints)) / view.fps, detections, view.image_size, view.skeleton, "bundled"
    )


class KeypointSource:
    """The frames of a recording of keypoints, at the times they were taken."""

    live = False
    reopened = damaged = 0

    def __init__(self, name: str, recording: KeypointRecording) -> None:
        self.name, self.recording = name, recording
        self.fps = min(max(recording.fps, _RATES[0]), _RATES[1])
        self._closed = False

    def __iter__(self) -> Iterator[Item]:
        recording = self.recording
        for index, (moment, detections) in enumerate(zip(recording.times, recording.detections, strict=True)):
            if self._closed:
                return
            yield Frame(index, float(moment), recording.image_size), detections

    def close(self) -> None:
        """See `Source`."""
        self._closed = True


class VideoSource:
    """Pictures of a video file, a camera or a network stream, through PyAV (FFmpeg).

    Files keep the timestamps of their frames, whatever their rate; live frames get the monotonic clock's time when
    they arrive, since cameras' own clocks jump when they are plugged in again. A picture that is stored turned (a
    phone held upright) is turned back. A damaged picture is left out and counted: half of it would be from another
    moment, and the gap in time is seen downstream.
    """

    def __init__(
        self,
        address: str,
        name: str,
        live: bool,
        format_: str | None = None,
        fps: float | None = None,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.address, self.name, self.live, self.format = address, name, live, format_
        self.reopened = self.damaged = 0
        self._told = told
        self._closed = False
        self._container = self._open()
        self.fps = fps or self._rate()

    def __iter__(self) -> Iterator[Item]:
        index = 0
        while not self._closed:
            try:
                for frame in self._pictures(index):
                    yield frame, None
                    index = frame.index + 1
            except _unreadable() as error:
                if not self.live:
                    raise DataError(f"{self.name} is damaged after frame {index}: {_reason(error)}") from None
            self._container.close()
            if not self.live or self._closed:
                return
            self._reopen()

    def close(self) -> None:
        """See `Source`."""
        self._closed = True

    def _pictures(self, index: int) -> Iterator[Frame]:
        stream = self._container.streams.video[0]
        stream.thread_type = "SLICE" if self.live else "AUTO"  # frame threads would delay a live picture
        last = -np.inf
        for picture in self._whole(stream):
            if self._closed:
                return
            moment = time.monotonic() if self.live or picture.time is None else float(picture.time)
            if not self.live and moment <= last:  # a file without usable timestamps, or one that repeats some
                moment = last + 1 / self.fps
            last = moment
            image = _upright(picture.to_ndarray(format="rgb24"), getattr(picture, "rotation", 0))
            yield Frame(index, moment, (image.shape[1], image.shape[0]), image)
            index += 1

    def _whole(self, stream: Any) -> Iterator[Any]:
        """Decoded pictures, without the damaged ones; raises where there is nothing else for a while."""
        in_a_row = 0
        for packet in self._container.demux(stream):
            if self._closed:
                return
            try:
                pictures = packet.decode()
            except _unreadable():
                in_a_row += 1
                self.damaged += 1
                if in_a_row >= _MOST_DAMAGED:
                    raise
                continue
            for picture in pictures:
                in_a_row = 0
                if picture.is_corrupt:
                    self.damaged += 1
                else:
                    yield picture

    def _rate(self) -> float:
        stream = self._container.streams.video[0]
        for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
            if rate and _RATES[0] <= float(rate) <= _RATES[1]:
                return float(rate)
        return 30.0

    def _open(self) -> Any:
        av = _require_av()
        timeouts = {"timeout": (_OPEN_TIMEOUT, _READ_TIMEOUT)} if self.live and self.format is None else {}
        options = {"rtsp_transport": "tcp"} if self.address.lower().startswith("rtsp") else {}
        try:
            # Titles in other encodings than UTF-8 are no reason not to read the pictures.
            container = av.open(
                self.address, format=self.format, options=options, metadata_errors="replace", **timeouts
            )
        except _unreadable() as error:
            raise DataError(f"{self.name} cannot be opened: {_reason(error)}") from None
        lacks = "" if container.streams.video else "holds no video"
        if not lacks and container.streams.video[0].codec_context is None:
            lacks = "is coded in a way that this build of FFmpeg cannot decode"
        if lacks:
            container.close()
            raise DataError(f"{self.name} {lacks}")
        return container

    def _reopen(self) -> None:
        self._told(f"{self.name} was lost; waiting for it")
        attempt = 0
        while not self._closed:
            deadline = time.monotonic() + _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)]
            while time.monotonic() < deadline and not self._closed:
                time.sleep(0.05)
            attempt += 1
            try:
                self._container = self._open()
            except DataError:
                continue
            self.reopened += 1
            self._told(f"{self.name} is back")
            return


def _upright(image: Any, rotation: int) -> Any:
    """A picture turned by its display rotation, in degrees counter-clockwise."""
    return np.ascontiguousarray(np.rot90(image, rotation // 90 % 4)) if rotation % 360 else image


def _without_password(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)


def _unreadable() -> tuple[type[Exception], ...]:
    """What PyAV raises for what it cannot read: few of FFmpeg's errors are OSErrors, and a stream may grow others."""
    return (_require_av().FFmpegError, OSError, ValueError, IndexError)


def _reason(error: Exception) -> str:
    if isinstance(error, IndexError):
        return "another stream begins there"
    return getattr(error, "strerror", None) or str(error)


def _require_av() -> Any:
    try:
        import av
    except ImportError:
        raise BackendError("videos and cameras need PyAV, not installed here: pip install 'pstmo-edge[app]'") from None
    return av
