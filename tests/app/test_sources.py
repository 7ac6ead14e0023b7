import http.server
import io
import itertools
import threading
import time
import types

import numpy as np
import pytest

from pstmo_edge.app.sources import KeypointSource, VideoSource, _upright, open_source
from pstmo_edge.errors import DataError, UsageError

pytest.importorskip("av")
from videos import write_video


def test_a_video_keeps_the_times_of_its_frames_however_uneven(tmp_path):
    times = [0.0, 0.04, 0.1, 0.12, 0.5, 0.54]
    source = open_source(str(write_video(tmp_path / "a.mp4", times)))
    frames = [frame for frame, detections in source if detections is None]
    assert np.allclose([frame.timestamp for frame in frames], times, atol=2e-3)
    assert [frame.index for frame in frames] == list(range(6))
    assert frames[0].image_size == (64, 48)
    assert frames[0].image.shape == (48, 64, 3)
    levels = [int(np.median(frame.image[24:])) for frame in frames]
    assert np.allclose(levels, 20 + 7 * np.arange(6), atol=4)
    assert not source.live


@pytest.mark.parametrize("size", [(48, 98), (65, 33), (16, 15)])
def test_portrait_and_odd_sizes(tmp_path, size):
    source = open_source(str(write_video(tmp_path / "a.mp4", [0.0, 0.04], size)))
    assert [frame.image_size for frame, _ in source] == [size] * 2


@pytest.mark.parametrize("rotation", [0, 90, -90, 180, 270])
def test_a_picture_is_turned_by_its_display_rotation(rotation):
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    turned = _upright(image, rotation)
    assert turned.shape == ((2, 4, 3) if rotation % 180 == 0 else (4, 2, 3))
    assert np.array_equal(turned, np.rot90(image, rotation // 90))
    assert turned.flags.c_contiguous


def test_a_video_that_is_cut_or_damaged_says_so_or_ends(tmp_path):
    path = write_video(tmp_path / "a.ts", [i * 0.04 for i in range(40)], container_format="mpegts")
    whole = path.read_bytes()
    (tmp_path / "cut.ts").write_bytes(whole[: len(whole) // 2])
    cut = [frame for frame, _ in open_source(str(tmp_path / "cut.ts"))]
    assert 0 < len(cut) < 40
    assert all(b.timestamp > a.timestamp for a, b in itertools.pairwise(cut))
    (tmp_path / "no.mp4").write_bytes(b"no video at all")
    with pytest.raises(DataError, match="cannot be opened"):
        open_source(str(tmp_path / "no.mp4"))


@pytest.mark.parametrize("kind", ["mp4", "ts", "mkv"])
def test_no_damage_is_more_than_one_line(tmp_path, kind):
    """Bytes of a video changed at random: pictures are left out and counted, or the file is refused in a sentence."""
    whole = write_video(tmp_path / f"whole.{kind}", [i * 0.04 for i in range(40)]).read_bytes()
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        data = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(0, len(data), 10 ** (seed % 3))
        data[places] = rng.integers(0, 256, len(places))
        (tmp_path / f"damaged.{kind}").write_bytes(data.tobytes())
        try:
            source = open_source(str(tmp_path / f"damaged.{kind}"))
            frames = [frame for frame, _ in source]
        except DataError as error:
            found.append(str(error))
        else:
            found.append(len(frames))
            assert len(frames) + source.damaged <= 41
            assert [frame.index for frame in frames] == list(range(len(frames)))
            assert all(b.timestamp > a.timestamp for a, b in itertools.pairwise(frames))
    assert sum(isinstance(each, int) for each in found) >= 4, found


def test_a_camera_whose_pictures_are_damaged_goes_on_and_one_without_any_other_is_lost(tmp_path, monkeypatch):
    import av

    class Packet:
        def __init__(self, real):
            self.real = real

        def decode(self):
            pictures = self.real.decode()
            if not whole(self.real):
                raise av.InvalidDataError(1094995529, "Invalid data found when processing input")
            return pictures

    path = str(write_video(tmp_path / "a.ts", [i * 0.04 for i in range(300)], container_format="mpegts"))
    monkeypatch.setattr(VideoSource, "_reopen", VideoSource.close)

    def seen():
        source = VideoSource(path, "camera", live=True)
        real = source._container
        source._container = types.SimpleNamespace(
            demux=lambda stream: map(Packet, real.demux(stream)), streams=real.streams, close=real.close
        )
        return [frame.index for frame, _ in source], source.damaged

    turn = itertools.count()
    whole = lambda packet: packet.pts is None or next(turn) % 3  # noqa: E731
    indices, damaged = seen()
    assert indices == list(range(len(indices)))
    assert damaged == 300 - len(indices) == 100
    whole = lambda packet: False  # noqa: E731
    assert seen() == ([], 100)


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("missing.mp4", DataError, "cannot be opened: No such file"),
        ("missing.npz", DataError, "no such file"),
        ("missing", DataError, "no such source"),
        ("/dev/video77", DataError, "/dev/video77 cannot be opened"),
        ("77", DataError, "camera 77 cannot be opened"),
        ("rtsp://me:secret@127.0.0.1:9/x", DataError, "rtsp://127.0.0.1:9/x cannot be opened"),
    ],
)
def test_sources_that_are_not_there(name, error, told):
    with pytest.raises(error, match=told) as raised:
        open_source(name)
    assert "secret" not in str(raised.value)


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "a.docx").write_bytes(b"")
    with pytest.raises(UsageError, match="no kind of source"):
        open_source(str(tmp_path / "a.docx"))
    with pytest.raises(UsageError, match="for files of keypoints"):
        open_source(str(tmp_path / "a.mp4"), image_size=(2, 2))


class _Camera(http.server.BaseHTTPRequestHandler):
    """A camera that is unplugged after its clip, and is away for a moment."""

    clip = b""
    served = 0
    away_until = 0.0

    def do_GET(self):
        kind = type(self)
        if time.monotonic() < kind.away_until:
            self.send_error(503)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(kind.clip)
        kind.served += 1
        kind.away_until = time.monotonic() + 0.3

    def log_message(self, *_):
        pass


def test_a_camera_that_is_unplugged_comes_back_and_time_goes_on(tmp_path):
    write_video(tmp_path / "clip.ts", [i * 0.04 for i in range(8)], container_format="mpegts")
    camera = type("Camera", (_Camera,), {"clip": (tmp_path / "clip.ts").read_bytes()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told, frames = [], []
    source = open_source(f"http://user:word@127.0.0.1:{server.server_port}/clip.ts", told=told.append)
    assert source.live
    for frame, _ in source:
        frames.append(frame)
        if len(frames) == 12:
            source.close()
    server.shutdown()
    server.server_close()
    assert source.reopened == 1
    assert [line.split()[-1] for line in told] == ["it", "back"]
    assert not any("word" in line for line in told)
    assert [frame.index for frame in frames] == list(range(12))
    steps = np.diff([frame.timestamp for frame in frames])
    assert (steps > 0).all()
    assert steps[7] > 0.3  # the time without it
    assert len(frames) == 12


def test_keypoints_come_with_their_times_and_can_be_stopped(tmp_path):
    keypoints = np.ones((50, 17, 3))
    np.savez(tmp_path / "k.npz", keypoints=keypoints, image_size=(640, 480), skeleton="coco-17", fps=25)
    source = open_source(str(tmp_path / "k.npz"))
    assert isinstance(source, KeypointSource)
    assert source.fps == pytest.approx(25)
    taken = []
    for frame, detections in source:
        taken.append(frame.timestamp)
        assert detections.keypoints.shape == (1, 17, 3)
        if len(taken) == 10:
            source.close()
    assert np.allclose(taken, np.arange(10) / 25)


def test_a_source_without_pictures_is_no_video(tmp_path):
    import av

    content = io.BytesIO()
    with av.open(content, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    (tmp_path / "a.mkv").write_bytes(content.getvalue())
    with pytest.raises(DataError, match="holds no video"):
        VideoSource(str(tmp_path / "a.mkv"), "a.mkv", live=False)
