"""The server behind ``python -m EAT.serve``: one page, one sound at a time, nothing kept."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..audio.held import Held
from ..audio.recordings import open_recording
from ..errors import DataError, EATError
from ..pictures.hearing import Listener
from ..pictures.pages import asset
from ..pictures.sounds import clip_mp3

FILES = {
    "/": ("serve.html", "text/html"),
    "/serve.js": ("serve.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/serve.css": ("serve.css", "text/css"),
}
"""What the page consists of: file in ``EAT/pictures/web`` and type, by path."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
CONNECTIONS = 32
"""Requests that are open at once; more are closed unanswered."""
WAITING = 4
"""Sounds that are held at once, the one that is being computed among them; more are told to come back."""
SILENCE_SECONDS = 15.0
"""A connection on which nothing arrives for so long is closed."""
LINGER_SECONDS = 2.0
"""How long what is still on its way is listened to after an answer."""
END_SECONDS = 10.0
"""How long what is under way is waited for when the server ends."""
BLOCK = 1 << 16


@dataclass(frozen=True)
class Limits:
    """What one upload may cost."""

    max_megabytes: float
    """Of its file."""
    max_seconds: float
    """Of audio."""
    timeout: float
    """Seconds for its way here and for computing each."""


class TooMuch(EATError):
    """An upload is over a limit, or there are too many."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class SoundServer(ThreadingHTTPServer):
    """Serves a page on which a model is asked about sounds.

    Args:
        address: host and port; port 0 takes a free one.
        listener: the model.
        limits: of each upload.
        title: what the page calls the model.
        note: a sentence for the page; empty for none.

    Raises:
        OSError: where the address cannot be taken.
    """

    def __init__(
        self, address: tuple[str, int], listener: Listener, limits: Limits, title: str, note: str = ""
    ) -> None:
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        self.listener, self.limits = listener, limits
        clips = 0 if listener.collection is None else len(listener.collection.sources)
        self.about = {"title": title, "note": note, "classes": len(listener.classes), "clips": clips, **asdict(limits)}
        self.connections = threading.BoundedSemaphore(CONNECTIONS)
        self.waiting = threading.BoundedSemaphore(WAITING)
        self.computing = threading.Lock()
        self.ending = threading.Event()
        self.answering: dict[threading.Thread, Any] = {}
        super().__init__(address, Handler)

    @property
    def is_local(self) -> bool:
        """Whether this machine alone reaches the server."""
        return ip_address(str(self.server_address[0])).is_loopback

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, where not too many are open."""
        if self.connections.acquire(blocking=False):
            arguments = (request, client_address)
            thread = threading.Thread(target=self.process_request_thread, args=arguments, daemon=True)
            thread.start()
            self.answering = {t: r for t, r in self.answering.items() if t.is_alive()} | {thread: request}
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room for others."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def server_close(self) -> None:
        """Close, and end what is under way: uploads at once, computing between two batches.

        A thread that were left in PyTorch's code while Python ends would take the process down with it.
        """
        super().server_close()
        self.ending.set()
        under_way = list(self.answering.items())
        for _, request in under_way:
            with contextlib.suppress(OSError):  # it is closed already
                request.shutdown(socket.SHUT_RD)
        until = time.monotonic() + END_SECONDS
        for thread, _ in under_way:
            thread.join(max(0.0, until - time.monotonic()))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say on stderr what went wrong, unless whoever asked has gone."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            traceback.print_exc()


def _is_number(text: str) -> bool:
    """Whether it is a whole number of plain digits, no longer than one can be here."""
    return text.isascii() and text.isdecimal() and len(text) < 16


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: SoundServer
    timeout = SILENCE_SECONDS
    server_version, sys_version = "EAT", ""

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: the names of sounds are nobody's business."""

    def do_GET(self) -> None:
        """Answer with a file of the page, what it must know, or a clip of the collection."""
        path = self.path.partition("?")[0]
        if not self._is_ours():
            self._say(HTTPStatus.FORBIDDEN, "This page is for its own address alone.")
        elif path in FILES:
            name, kind = FILES[path]
            self._answer(HTTPStatus.OK, f"{kind}; charset=utf-8", asset(name).encode())
        elif path == "/about":
            self._json(HTTPStatus.OK, self.server.about)
        elif path.startswith("/clip/"):
            self._clip(path.removeprefix("/clip/"))
        else:
            self._say(HTTPStatus.NOT_FOUND, "There is nothing at this address.")

    def do_POST(self) -> None:
        """Answer with what the model hears in the sound that was sent."""
        path, _, query = self.path.partition("?")
        if not self._is_ours():
            self._say(HTTPStatus.FORBIDDEN, "This page is for its own address alone.")
        elif path != "/sound":
            self._say(HTTPStatus.NOT_FOUND, "There is nothing at this address.")
        elif not self.server.waiting.acquire(blocking=False):
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "Others are being served; try again in a moment.")
        else:
            try:
                name = parse_qs(query).get("name", ["the recording"])[0]
                self._json(HTTPStatus.OK, self._hear(name, self._body()))
            except TooMuch as error:
                self._say(error.status, str(error))
            except DataError as error:
                self._say(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
            except (ConnectionError, TimeoutError):
                raise
            except Exception:
                traceback.print_exc()
                self._say(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong; the server's terminal says what.")
            finally:
                self.server.waiting.release()
        self._let_them_read()

    def _is_ours(self) -> bool:
        """Whether the request comes from our page: not from another site's, nor by a name that was bent to us."""
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        try:
            if origin is not None and urlsplit(origin).netloc != host:
                return False
            name = urlsplit(f"//{host}").hostname
        except ValueError:  # no address at all
            return False
        return not self.server.is_local or name in ("localhost", "127.0.0.1", "::1", self.server.server_address[0])

    def _body(self) -> bytes:
        """What was sent, in memory. Raises TooMuch for what is too large, too slow or of unknown size."""
        limits, text = self.server.limits, self.headers.get("Content-Length", "")
        if not _is_number(text):
            raise TooMuch(HTTPStatus.LENGTH_REQUIRED, "The upload does not say how long it is.")
        length, until = int(text), time.monotonic() + limits.timeout
        if length > limits.max_megabytes * 1e6:
            raise TooMuch(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The file has {length / 1e6:,.1f} MB; at most {limits.max_megabytes:g} are taken.",
            )
        content = bytearray()
        while len(content) < length:
            part = self.rfile.read1(min(BLOCK, length - len(content)))  # type: ignore[attr-defined]
            if not part:
                raise ConnectionError("the upload broke off")
            content += part
            if time.monotonic() > until:
                raise TooMuch(HTTPStatus.REQUEST_TIMEOUT, f"The upload took longer than {limits.timeout:g} s.")
        return bytes(content)

    def _hear(self, name: str, content: bytes) -> dict[str, Any]:
        limits = self.server.limits
        with self.server.computing:
            until = time.monotonic() + limits.timeout

            def check() -> None:
                if self.server.ending.is_set():
                    raise TooMuch(HTTPStatus.SERVICE_UNAVAILABLE, "The server has been stopped.")
                if time.monotonic() > until:
                    raise TooMuch(
                        HTTPStatus.SERVICE_UNAVAILABLE,
                        f"This took longer than {limits.timeout:g} s; send a shorter part.",
                    )

            held = Held(name, content, check)
            try:
                recording = open_recording(held)
            except DataError as error:
                raise TooMuch(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(error)) from None
            seconds = recording.frames / recording.rate
            recording.close()
            if seconds > limits.max_seconds:
                raise TooMuch(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"{name} lasts {seconds:,.0f} s; at most {limits.max_seconds:g} are taken.",
                )
            return self.server.listener.hear(held)

    def _clip(self, number: str) -> None:
        collection = self.server.listener.collection
        if collection is None or not _is_number(number) or int(number) >= len(collection.sources):
            self._say(HTTPStatus.NOT_FOUND, "There is no such clip.")
            return
        try:
            content = clip_mp3(collection.sources[int(number)].address)
        except DataError as error:
            self._say(HTTPStatus.NOT_FOUND, str(error))
            return
        self._answer(HTTPStatus.OK, "audio/mpeg", content)

    def _say(self, status: HTTPStatus, sentence: str) -> None:
        self._json(status, {"error": sentence})

    def _json(self, status: HTTPStatus, data: Any) -> None:
        self._answer(status, "application/json", json.dumps(data, allow_nan=False).encode())

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _let_them_read(self) -> None:
        """Close so that an answer given before all was sent still arrives: unread bytes would break the connection."""
        until = time.monotonic() + LINGER_SECONDS
        self.wfile.flush()
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER_SECONDS)
            while time.monotonic() < until and self.connection.recv(BLOCK):
                pass
        except OSError:
            pass
