"""What stands before the page's server: only its own requests pass, of limited size."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost")
API = "/gradio_api"
PAGES = ("/", "/config", "/config/", "/theme.css", "/favicon.ico", "/manifest.json")
# What the page itself asks for; all else that the server knows stays shut.
OPEN = (
    *("/assets/", "/static/", "/svelte/"),
    *(f"{API}/{part}" for part in ("file=", "heartbeat/", "queue/data", "upload_progress")),
    *(f"{API}/{part}" for part in ("info", "app_id", "startup-events", "theme.css")),
)
UPLOAD = f"{API}/upload"
CALLS = (f"{API}/queue/join", f"{API}/cancel", f"{API}/reset")
CALL_BYTES = 2**20
# Nothing comes from, or goes to, another host.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Refused(Exception):
    """The request does not pass.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Gate:
    """ASGI middleware.

    Requests for another host are refused (a foreign page could send them by DNS rebinding), and
    those that the page does not make, that are too large, or that name a file which was not
    uploaded.

    Args:
        app: what is behind it.
        folder: of the uploads.
        upload: the largest upload, in bytes.
    """

    def __init__(self, app: App, folder: Path, upload: int) -> None:
        self.app, self.folder, self.upload = app, folder.resolve(), upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            receive = await self.checked(scope, receive)
        except Refused as error:
            await refuse(send, error)
            return
        await self.app(scope, receive, with_headers(send))

    async def checked(self, scope: Scope, receive: Receive) -> Receive:
        """What the request's body is then read from.

        Raises:
            Refused: if it does not pass.
        """
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        if host not in HOSTS:
            raise Refused(403, "this page answers 127.0.0.1 and localhost alone")
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD"):
            if path not in PAGES and not path.startswith(OPEN):
                raise Refused(404, "there is no such page")
            return receive
        if method != "POST" or path not in (UPLOAD, *CALLS):
            raise Refused(405, "not allowed")
        most = self.upload if path == UPLOAD else CALL_BYTES
        given = headers.get("content-length", "")
        if not given.isdecimal():
            raise Refused(411, "its length is not given")
        if int(given) > most:
            raise Refused(413, f"more than {most} bytes")
        return receive if path == UPLOAD else await self._read(receive)

    async def _read(self, receive: Receive) -> Receive:
        """The whole body of a call, looked through."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "it broke off")
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.check_files(body)
        read = False

        async def again() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again

    def check_files(self, body: bytes) -> None:
        """Refuse a call that names any file but an uploaded one.

        Raises:
            Refused: if it does, or is no JSON.
        """
        try:
            called = json.loads(body or b"{}")
        except (ValueError, RecursionError) as error:
            raise Refused(400, "it is no JSON") from error
        for path in paths_in(called):
            whole = isinstance(path, str) and Path(path).is_absolute() and "\0" not in path
            if not whole or not Path(path).resolve().is_relative_to(self.folder):
                raise Refused(403, "only uploaded files are read")


def paths_in(value: Any) -> Iterator[Any]:
    """All that a JSON value calls a path.

    Example:
        >>> list(paths_in({"data": [{"path": "/a", "meta": {}}, {"b": [{"path": 1}]}]}))
        ['/a', 1]
    """
    if isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        for inner in value.values():
            yield from paths_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from paths_in(inner)


def with_headers(send: Send) -> Send:
    """``send`` with ``HEADERS`` in every answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            known = [(k, v) for k, v in message.get("headers", []) if k.decode() not in HEADERS]
            ours = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
            message = {**message, "headers": [*known, *ours]}
        await send(message)

    return sending


async def refuse(send: Send, error: Refused) -> None:
    """Answer a request that does not pass."""
    text = str(error).encode()
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
