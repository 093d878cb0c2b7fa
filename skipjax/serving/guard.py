"""Around every request: what is absurd goes no further, time is taken, headers are added."""

import asyncio
import contextlib
import time
from urllib.parse import unquote_to_bytes

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skipjax.serving.metrics import Metrics

MOST_ADDRESS = 8 << 10  # bytes: an id of MOST_CHARACTERS, each of them 4 bytes as %F0%9F%98%80
MOST_HEADERS = 16 << 10  # bytes: what browsers send is a tenth of that
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # of which metrics count


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500  # if all else fails
        method = scope["method"] if scope["method"] in _METHODS else "other"
        if method == "HEAD":  # the server leaves out what follows the headers
            scope = {**scope, "method": "GET"}

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            # What takes too long at the end is cancelled, and its connection cut (server.py).
            with contextlib.suppress(asyncio.CancelledError):
                await (_refusal(scope) or self._app)(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.request(route, method, status, time.perf_counter() - start)


def _refusal(scope: Scope) -> ASGIApp | None:
    """What answers a request that nothing else needs to see."""
    address = [scope.get("raw_path") or b"", scope["query_string"]]
    if sum(map(len, address)) > MOST_ADDRESS:
        return _said(414, f"the address has more than {MOST_ADDRESS:,} bytes; shorten it.")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADERS:
        return _said(431, f"the headers have more than {MOST_HEADERS:,} bytes; leave some out.")
    try:  # or else other ids would be looked for than were meant
        for part in address:
            unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        return _said(400, "the address is not UTF-8, percent-encoded; encode its parts as that.")
    return None


def _said(status: int, message: str) -> ASGIApp:
    return JSONResponse({"detail": message}, status)
