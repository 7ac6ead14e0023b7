"""A web page for devices without a screen: the picture, keypoints, poses that can be turned, and figures.

Served by the standard library alone: the page is one file that asks for nothing else, poses come as server-sent events
and pictures as a stream of JPEGs. Encoding has a thread of its own and every client a queue of its own; both drop the
oldest and count it, so the app never waits for a browser.

Who may look: by default programs on this machine. On another address a token is part of the page's own address, since
everybody in that network could look into the room otherwise; traffic is not encrypted, so put a proxy with TLS before
it where that matters. Requests that name another host are refused (DNS rebinding), and so are more than `CLIENTS`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import ipaddress
import json
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from pstmo_edge.app.stages import BoundedQueue
from pstmo_edge.app.types import PersonPose, View
from pstmo_edge.app.viewers import looks
from pstmo_edge.app.viewers.aligned import Aligner, Moment
from pstmo_edge.app.viewers.base import ViewerSettings
from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.skeletons import Skeleton

DEFAULT_ADDRESS, DEFAULT_PORT = "127.0.0.1", 8350
CLIENTS = 16  # event and picture streams together
EVENTS, PICTURES = 30, 2  # what waits for one client
WIDTH, QUALITY = 640, 70  # of pictures
PATIENCE = 10.0  # seconds in which a client must take what it is sent
BOUNDARY = "pstmo-edge-frame"
_POLL = 0.1  # seconds in which the server notices that it is closed

log = logging.getLogger(__name__)


class Clients:
    """The open streams of one kind, and what they missed."""

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self._queues: set[BoundedQueue[bytes]] = set()
        self._lock = threading.Lock()
        self._dropped = 0
        self.closed = False

    def __len__(self) -> int:
        """How many are connected."""
        return len(self._queues)

    @property
    def dropped(self) -> int:
        """What slow clients missed since the beginning."""
        with self._lock:
            return self._dropped + sum(queue.dropped for queue in self._queues)

    def send(self, message: bytes) -> None:
        """Give a message to all; who is behind loses the oldest."""
        with self._lock:
            for queue in self._queues:
                queue.put(message)

    def close(self) -> None:
        """Let all streams end."""
        with self._lock:
            self.closed = True
            for queue in self._queues:
                queue.close()

    @contextmanager
    def joined(self) -> Iterator[BoundedQueue[bytes]]:
        """A queue of messages for one client."""
        queue: BoundedQueue[bytes] = BoundedQueue(self._waiting, drops=True)
        with self._lock:
            if self.closed:
                queue.close()
            self._queues.add(queue)
        try:
            yield queue
        finally:
            with self._lock:
                self._queues.discard(queue)
                self._dropped += queue.dropped


class WebViewer:
    """Serves the page. See `Viewer`."""

    def __init__(self, address: str, port: int, settings: ViewerSettings, token: str | None) -> None:
        self._settings, self.token = settings, token
        self.events, self.pictures = Clients(EVENTS), Clients(PICTURES)
        self._views: BoundedQueue[View] = BoundedQueue(PICTURES, drops=True)
        self._failed: Exception | None = None
        self._server = _Server(address, port, self)
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("web", lambda: self._server.serve_forever(_POLL)), ("web encoder", self._encode))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        """The page's address."""
        host, port = self._server.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{shown}:{port}/" + ("" if self.token is None else f"?token={self.token}")

    def show(self, view: View) -> None:
        """See `Viewer`. Raises what the encoder raised, or a page would stand still with nobody knowing why."""
        if self._failed is not None:
            raise self._failed
        self._views.put(view)

    def close(self) -> None:
        """See `Viewer`."""
        self._views.close()
        self.events.close()
        self.pictures.close()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _encode(self) -> None:
        try:
            self._send_all()
        except Exception as error:
            self._failed = error

    def _send_all(self) -> None:
        """A picture waits for its own poses, so keypoints lie on the people they were found on."""
        aligner = Aligner(self._settings.lookahead, self._picture)
        for view in self._views:
            for moment in aligner.push(view):
                if len(self.events):
                    self.events.send(_event(self._message(moment, view)))
                if moment.frame.image is not None:
                    self.pictures.send(moment.frame.image)  # type: ignore[arg-type]  # a part, see `_picture`

    def _picture(self, image: Any) -> bytes | None:
        return _part(image) if len(self.pictures) else None

    def _message(self, moment: Moment, newest: View) -> dict[str, Any]:
        return {
            "frame": moment.frame.index,
            "time": round(moment.frame.timestamp, 4),
            "size": moment.frame.image_size,
            "picture": newest.frame.image is not None,
            "status": newest.status,
            "latency": {stage: round(value, 2) for stage, value in newest.latency_ms.items()},
            "people": [_told(pose, self._settings.z_up) for pose in moment.poses.values()],
            "missed": self.events.dropped + self._views.dropped,
        }

    def about(self) -> dict[str, Any]:
        """What the page is told once: bones and colours."""
        return {
            "keypoints": _bones(self._settings.keypoints),
            "poses": _bones(self._settings.poses),
            "flags": {**looks.FLAGS, "doubtful": looks.DOUBTFUL},
            "yaw": looks.YAW,
            "pitch": looks.PITCH,
        }


def _bones(skeleton: Skeleton) -> list[tuple[int, int, looks.Colour]]:
    return [
        (joint, parent, colour) for (joint, parent), colour in zip(skeleton.bones, looks.sides(skeleton), strict=True)
    ]


def _told(pose: PersonPose, z_up: bool) -> dict[str, Any]:
    """What the page is told of a pose, in millimetres (y down) and pixels: half a kilobyte."""

    def placed(points: FloatArray) -> list[Any]:
        told: list[Any] = np.rint(looks.as_seen(points, z_up) * 1000).astype(int).tolist()
        return told

    return {
        "id": pose.person,
        "flag": pose.flag,
        "doubtful": pose.doubtful,
        "time": round(pose.result.timestamp, 4),
        "ahead": round(pose.result.lookahead_ms),
        "pose": placed(pose.pose),
        "root": None if pose.root is None else placed(pose.root),
        "doubt": None if pose.doubt_mm is None else round(float(np.mean(pose.doubt_mm))),
        "missing": np.flatnonzero(pose.result.missing).tolist(),
        "keypoints": None if pose.keypoints is None else np.round(pose.keypoints, 2).tolist(),
    }


def _event(message: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(message, separators=(",", ":")).encode() + b"\n\n"


def _part(image: Any) -> bytes:
    picture = Image.fromarray(image)
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, max(round(picture.height * WIDTH / picture.width), 1)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    data = buffer.getvalue()
    return f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data + b"\r\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that hangs must not hold up the end

    def __init__(self, address: str, port: int, viewer: WebViewer) -> None:
        self.viewer = viewer
        self.page, self.policy = _page(viewer.about())
        self.hosts = {"localhost", socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""
        log.debug("client %s went away", client_address, exc_info=True)

    def serves(self, host: str) -> bool:
        """Whether a Host header names this machine: by its name or by a bare address, which no DNS can redirect."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        with suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return name in self.hosts


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "pstmo-edge", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Answer one request."""
        parts = urlsplit(self.path)
        routes: dict[str, Callable[[], None]] = {
            "/": self._send_page, "/events": self._send_events, "/picture": self._send_pictures,
        }  # fmt: skip
        if not self.server.serves(self.headers.get("Host", "")):
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "this address does not belong to the app")
        elif not self._may_look(parts.query):
            self._refuse(HTTPStatus.FORBIDDEN, "the page's address has a token: take it from the app's output")
        elif parts.path not in routes:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")
        else:
            routes[parts.path]()

    def log_message(self, form: str, *values: Any) -> None:
        """Requests go to the log, not to standard error."""
        log.debug(form, *values)

    def _may_look(self, query: str) -> bool:
        token = self.server.viewer.token
        given = parse_qs(query).get("token", [""])[0]
        return token is None or hmac.compare_digest(given.encode(), token.encode())

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        body = f"{text}\n".encode()
        self._head(status, "text/plain; charset=utf-8", len(body))
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Cache-Control": "no-store",
            "Content-Security-Policy": self.server.policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        } | ({"Connection": "close"} if length is None else {"Content-Length": str(length)})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_page(self) -> None:
        self._head(HTTPStatus.OK, "text/html; charset=utf-8", len(self.server.page))
        self.wfile.write(self.server.page)

    def _send_events(self) -> None:
        self._stream(self.server.viewer.events, "text/event-stream", b"retry: 1000\n\n")

    def _send_pictures(self) -> None:
        self._stream(self.server.viewer.pictures, f"multipart/x-mixed-replace; boundary={BOUNDARY}", b"")

    def _stream(self, clients: Clients, kind: str, greeting: bytes) -> None:
        viewer = self.server.viewer
        if len(viewer.events) + len(viewer.pictures) >= CLIENTS:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{CLIENTS} streams are open already: close another page")
            return
        self.close_connection = True
        with clients.joined() as queue, suppress(OSError):  # a client that left, or took nothing for PATIENCE
            self._head(HTTPStatus.OK, kind)
            self.wfile.write(greeting)
            for message in queue:
                self.wfile.write(message)


def _page(about: dict[str, Any]) -> tuple[bytes, str]:
    """The page with what it is told, and the policy that lets its own script and style run, and nothing else."""
    text = resources.files("pstmo_edge.app.viewers").joinpath("page.html").read_text(encoding="utf-8")
    text = text.replace("/*ABOUT*/null", json.dumps(about, separators=(",", ":")))
    policy = ["default-src 'none'", "img-src 'self'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'",
              "frame-ancestors 'none'"]  # fmt: skip
    for kind in ("script", "style"):
        inner = text.split(f"<{kind}>", 1)[1].split(f"</{kind}>", 1)[0]
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        policy.append(f"{kind}-src 'sha256-{digest}'")
    return text.encode(), "; ".join(policy)


def open_viewer(target: str, settings: ViewerSettings) -> WebViewer:
    """The page at "PORT", "ADDRESS:PORT" or, where `target` is empty, 127.0.0.1:8350; port 0 picks a free one.

    Raises UsageError for another form, BackendError where the address cannot be had.
    """
    address, port = _parsed(target)
    local = address == "localhost" or ipaddress.ip_address(address).is_loopback
    try:
        viewer = WebViewer(address, port, settings, None if local else secrets.token_urlsafe(16))
    except OSError as error:
        raise BackendError(
            f"the web viewer cannot listen on {address}:{port}: {error}; give another, web:PORT"
        ) from error
    log.warning("watch at %s", viewer.url)
    return viewer


def _parsed(target: str) -> tuple[str, int]:
    address, _, port = target.rpartition(":")
    address = address.strip("[]") or DEFAULT_ADDRESS
    try:
        number = int(port or DEFAULT_PORT)
        if address != "localhost":
            ipaddress.ip_address(address)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise UsageError(
            f"web:{target} is no address: give web, web:PORT or web:ADDRESS:PORT, such as web:0.0.0.0:8350"
        )
    return address, number
