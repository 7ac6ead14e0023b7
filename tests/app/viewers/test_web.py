"""The web viewer: what it serves, whom it refuses, and that the app never waits for a browser."""

import http.client
import io
import json
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from app.viewers.conftest import SIZE
from PIL import Image

from pstmo_edge.app.types import Detections, Frame, View
from pstmo_edge.app.viewers import ViewerSettings, open_viewer, web
from pstmo_edge.errors import BackendError, UsageError

NOBODY = Detections(np.zeros((0, 17, 3), np.float32), "human36m-17")


@pytest.fixture
def viewer():
    viewer = open_viewer("web:0", ViewerSettings())
    yield viewer
    viewer.close()


def port(viewer):
    return viewer._server.server_address[1]


def request(viewer, path="/", host=None, method="GET", address="127.0.0.1"):
    connection = http.client.HTTPConnection(address, port(viewer), timeout=5)
    connection.putrequest(method, path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    return connection, connection.getresponse()


def fetched(viewer, *arguments, **options):
    connection, response = request(viewer, *arguments, **options)
    try:
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def wait_for(condition):
    ends = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_the_page_asks_for_nothing_else_and_allows_nothing_else(viewer):
    status, headers, body = fetched(viewer)
    text = body.decode()
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "http://" not in text
    assert "https://" not in text
    assert "/*ABOUT*/" not in text


def test_events_tell_poses_flags_and_figures(viewer, views):
    connection, response = request(viewer, "/events")
    assert response.getheader("Content-Type") == "text/event-stream"
    wait_for(lambda: len(viewer.events) == 1)
    viewer.show(views()[20])
    assert response.fp.readline() == b"retry: 1000\n"
    assert response.fp.readline() == b"\n"
    line = response.fp.readline()
    connection.close()
    told = json.loads(line.removeprefix(b"data: "))
    assert (told["frame"], told["size"], told["picture"]) == (20, list(SIZE), True)
    assert told["status"] == "30.0 FPS, frame 20"
    assert told["latency"]["total"] == 34.0
    first, second = told["people"]
    assert (first["id"], first["flag"], first["doubtful"], first["ahead"], first["doubt"]) == (1, "valid", False, 0, 20)
    assert (second["flag"], second["doubtful"]) == ("stale", True)
    np.testing.assert_allclose(first["pose"], views()[20].poses[0].pose * 1000, atol=0.5)
    assert len(line) < 6000


def test_a_person_who_left_is_not_shown_any_more(viewer, views):
    connection, response = request(viewer, "/events")
    wait_for(lambda: len(viewer.events) == 1)
    made = views()
    alone = [View(view.frame, NOBODY, view.poses[1:], left=(1,)) for view in made[6:15]]
    told = []
    for view in (made[5], *alone):
        viewer.show(view)
        line = b""
        while not line.startswith(b"data:"):
            line = response.fp.readline()
        told.append([person["id"] for person in json.loads(line.removeprefix(b"data: "))["people"]])
    connection.close()
    assert told == [[1, 2]] * 8 + [[2]] * 2, "after a quarter of a second"


def test_a_picture_waits_for_its_own_poses(views):
    viewer = open_viewer("web:0", ViewerSettings(lookahead=6 / 30))
    connection, response = request(viewer, "/events")
    wait_for(lambda: len(viewer.events) == 1)
    told = []
    for view in views(6):
        wait_for(lambda: not viewer._views._items)
        viewer.show(view)
        if view.frame.index >= 9:
            line = b""
            while not line.startswith(b"data:"):
                line = response.fp.readline()
            told.append(json.loads(line.removeprefix(b"data: ")))
    connection.close()
    viewer.close()
    assert [each["frame"] for each in told] == list(range(15))
    assert all(abs(person["time"] - each["time"]) < 1e-4 for each in told for person in each["people"])


def test_pictures_come_as_a_stream_of_jpegs_no_wider_than_needed(viewer):
    connection, response = request(viewer, "/picture")
    assert response.getheader("Content-Type") == "multipart/x-mixed-replace; boundary=pstmo-edge-frame"
    wait_for(lambda: len(viewer.pictures) == 1)
    image = np.full((500, 1000, 3), 90, np.uint8)
    for index in range(2):
        viewer.show(View(Frame(index, index / 30, (1000, 500), image), NOBODY, ()))
        assert response.fp.readline() == b"--pstmo-edge-frame\r\n"
        assert response.fp.readline() == b"Content-Type: image/jpeg\r\n"
        length = int(response.fp.readline().split()[1])
        response.fp.readline()
        picture = Image.open(io.BytesIO(response.fp.read(length)))
        assert picture.size == (640, 320)
        response.fp.readline()
    connection.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1234", 200), ("127.0.0.1", 200), ("192.168.7.4:8350", 200), ("[::1]:8350", 200),
        (socket.gethostname(), 200), ("evil.example", 421), ("127.0.0.1.evil.example:8350", 421), ("", 421),
        ("[::1", 421),
    ],
)  # fmt: skip
def test_other_hosts_are_refused(viewer, host, status):
    assert fetched(viewer, host=host)[0] == status
    assert fetched(viewer, "/events" if status != 200 else "/", host=host)[0] == status


def test_what_is_not_there_is_refused_in_a_line(viewer):
    assert fetched(viewer, "/../etc/passwd")[0] == 404
    assert fetched(viewer, "/page.html")[::2] == (404, b"there is nothing here\n")
    assert fetched(viewer, method="POST")[0] == 501


def test_another_address_needs_the_token():
    viewer = open_viewer("web:0.0.0.0:0", ViewerSettings())
    try:
        assert len(viewer.token) >= 20
        assert viewer.url.endswith(f"/?token={viewer.token}")
        for path in ("/", "/events", "/picture", "/?token=", "/?token=guess", f"/?other={viewer.token}"):
            assert fetched(viewer, path)[0] == 403
        assert fetched(viewer, f"/?token={viewer.token}")[0] == 200
    finally:
        viewer.close()


def view_of(index, like):
    poses = tuple(replace(pose, result=replace(pose.result, frame=index)) for pose in like.poses)
    return View(Frame(index, index / 30, SIZE), like.detections, poses)


def test_a_slow_client_loses_the_oldest_and_nobody_waits(viewer, views):
    """One client takes nothing; showing stays fast, the other gets the newest, what was lost is counted."""
    slow = socket.create_connection(("127.0.0.1", port(viewer)))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    connection, response = request(viewer, "/events")
    wait_for(lambda: len(viewer.events) == 2)
    newest, big = [], views()[10]

    def take():
        for line in response.fp:
            if line.startswith(b"data:"):
                newest.append(json.loads(line[5:])["frame"])

    reader = threading.Thread(target=take, daemon=True)
    reader.start()
    slowest = 0.0
    for index in range(3000):
        begun = time.perf_counter()
        viewer.show(view_of(index, big))
        slowest = max(slowest, time.perf_counter() - begun)
        if index % 2 == 0:
            time.sleep(0.0005)
    wait_for(lambda: newest and newest[-1] == 2999)
    assert viewer.events.dropped > 0
    assert slowest < 0.25
    slow.close()
    connection.close()


def test_the_end_does_not_wait_for_clients():
    viewer = open_viewer("web:0", ViewerSettings())
    connection, _ = request(viewer, "/events")
    wait_for(lambda: len(viewer.events) == 1)
    begun = time.monotonic()
    viewer.close()
    assert time.monotonic() - begun < 3
    connection.close()
    wait_for(lambda: len(viewer.events) == 0)


def test_an_encoder_that_fails_is_told(viewer, views, monkeypatch):
    def fails(*_):
        raise ValueError("no picture")

    monkeypatch.setattr(web.Aligner, "push", fails)
    viewer.show(views()[0])
    wait_for(lambda: viewer._failed)
    with pytest.raises(ValueError, match="no picture"):
        viewer.show(views()[1])


def test_too_many_streams_are_refused(viewer, monkeypatch):
    monkeypatch.setattr(web, "CLIENTS", 1)
    connection, _ = request(viewer, "/events")
    wait_for(lambda: len(viewer.events) == 1)
    assert fetched(viewer, "/picture")[::2] == (503, b"1 streams are open already: close another page\n")
    assert fetched(viewer)[0] == 200
    connection.close()


def test_a_port_that_is_taken_is_named(viewer):
    with pytest.raises(BackendError, match=f"cannot listen on 127.0.0.1:{port(viewer)}: .*give another, web:PORT"):
        open_viewer(f"web:{port(viewer)}", ViewerSettings())


@pytest.mark.parametrize("target", ["here", "99999", "example.com:80", "1.2.3:80"])
def test_addresses_that_are_none_are_refused(target):
    with pytest.raises(UsageError, match="is no address: give web, web:PORT or web:ADDRESS:PORT"):
        open_viewer(f"web:{target}", ViewerSettings())
