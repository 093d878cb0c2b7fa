"""The service as a process: a socket, uvicorn, and an end that answers what is in flight."""

import asyncio
import errno
import http
import json
import logging
import signal
import socket
from collections.abc import Callable, Mapping
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from skipjax.data.inputs import counted, shown
from skipjax.errors import BusyError, ConfigError, SkipjaxError
from skipjax.recommend import Recommender
from skipjax.serving.app import create_app

_BACKLOG = 2048  # connections that wait to be accepted
_IDLE_SECONDS = 75  # that a connection stays open; longer than clients and proxies keep theirs
_LAST_SECONDS = 30  # to answer what is in flight when the end is asked for; the queue is shorter
_LATE_SECONDS = 2  # for bodies on their way then; what stops services often kills them after 10


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
      host: a name or an address of this machine.
      port: 0 for any that is free.

    Raises:
      BusyError: the port is in use.
      ConfigError: the address is not this machine's, or the port may not be used.
    """
    try:
        ((family, _, _, _, address), *_) = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError, OverflowError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise BusyError(
                f"port {port} of {host} is in use; give another --port, or 0 for any free one."
            ) from None
        if number == errno.EACCES:
            raise ConfigError(
                f"--port {port} may be used by root alone; give one from 1024 on."
            ) from None
        raise ConfigError(
            f"--host {host!r} is no address of this machine; give 127.0.0.1, or 0.0.0.0 for all."
        ) from None


def url(listening: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    recommenders: Mapping[str, Recommender],
    listening: socket.socket,
    *,
    on_ready: Callable[[float], None],
    verbose: bool = False,
) -> None:
    """Serves until a signal comes; when all is answered, that is raised as it would have been.

    Args:
      recommenders: models by name, the default first.
      listening: of `listen`; closed at the end.
      on_ready: called with the seconds of warming up when all models are warm.
      verbose: log each request.

    Raises:
      SkipjaxError: a model cannot be warmed up, or a signal came and not all could be answered; the
        exit code is the signal's then.
    """
    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    config = uvicorn.Config(
        create_app(recommenders, on_ready=on_ready, on_failure=fail),
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=uvicorn.config.LOGGING_CONFIG if verbose else None,
        log_level="info" if verbose else "error",
        access_log=verbose,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_SECONDS,
    )
    server = _Server(config)
    server.run(sockets=[listening])
    if failures:
        reason = shown(str(failures[0]).rstrip("."), 200)
        raise SkipjaxError(f"a model cannot be warmed up: {reason}.") from failures[0]
    if server.signal and server.unanswered:
        how = "interrupted" if server.signal == signal.SIGINT else "terminated"
        were = "was" if len(server.unanswered) == 1 else "were"
        ended = SkipjaxError(
            f"{how}; {counted(len(server.unanswered), 'request')} {were} not answered."
        )
        ended.exit_code = 128 + server.signal
        raise ended
    if server.signal:
        signal.raise_signal(server.signal)


class _Server(uvicorn.Server):
    """Ends in bounded time, and knows what it could not answer.

    Leaves a signal alone that is ignored, as shells have it for what runs behind them.

    Attributes:
      signal: that asked for the end, or 0.
      unanswered: the connections that were given up, with a request each.
    """

    def __init__(self, config: uvicorn.Config):
        super().__init__(config)
        both = (signal.SIGTERM, signal.SIGINT)
        self._ignored = [which for which in both if signal.getsignal(which) == signal.SIG_IGN]
        self.signal = 0
        self.unanswered: set[_Protocol] = set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig in self._ignored:
            return
        self.force_exit |= self.should_exit and sig == signal.SIGINT  # Ctrl-C again
        self.should_exit = True
        self.signal = sig

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        bounding = asyncio.create_task(self._bound())
        await super().shutdown(sockets)  # which waits for all connections and tasks
        bounding.cancel()
        self._cut()  # what is left, if it did not wait

    async def _bound(self) -> None:
        await asyncio.sleep(_LATE_SECONDS)
        for connection in list(self.server_state.connections):
            if connection.awaits_body():
                self.unanswered.add(connection)
                connection.refuse(
                    408, "the service ends, and not all of the body is here; send it again."
                )
        await asyncio.sleep(_LAST_SECONDS - _LATE_SECONDS)
        self._cut()

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            self.unanswered.add(connection)
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()


class _Protocol(H11Protocol):
    """What is not HTTP at all is refused as everything else is: in JSON."""

    def send_400_response(self, msg: str) -> None:
        logging.getLogger("uvicorn.error").debug(msg)
        self.refuse(400, "this is not HTTP/1.1 as the standard has it; nothing was read of it.")

    def awaits_body(self) -> bool:
        """Whether there is a request of which not all has arrived."""
        return self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.SEND_RESPONSE

    def refuse(self, status: int, detail: str) -> None:
        """Says why, unless an answer has begun, and closes the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # nothing of an answer is out yet
            body = json.dumps({"detail": detail}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            reason = http.HTTPStatus(status).phrase.encode()
            for event in (
                h11.Response(status_code=status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()
