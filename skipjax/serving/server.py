"""The service as a process: a socket, uvicorn, and an end in which nothing in flight is lost."""

import errno
import logging
import signal
import socket
from collections.abc import Callable, Mapping
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from skipjax.data.inputs import shown
from skipjax.errors import BusyError, ConfigError, SkipjaxError
from skipjax.recommend import Recommender
from skipjax.serving.app import create_app

_BACKLOG = 2048  # connections that wait to be accepted
_IDLE_SECONDS = 75  # that a connection stays open; longer than clients and proxies keep theirs
_LAST_SECONDS = 30  # to answer what is in flight when the end is asked for; the queue is shorter
_REFUSAL = b'{"detail": "this is not HTTP/1.1 as the standard has it; nothing was read of it."}'


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
    """Serves until a signal comes, which is then raised as it would have been without.

    Args:
      recommenders: models by name, the default first.
      listening: of `listen`; closed at the end.
      on_ready: called with the seconds of warming up when all models are warm.
      verbose: log each request.

    Raises:
      SkipjaxError: a model that cannot be warmed up.
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
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    server = _Server(config)
    server.run(sockets=[listening])
    if failures:
        reason = shown(str(failures[0]).rstrip("."), 200)
        raise SkipjaxError(f"a model cannot be warmed up: {reason}.") from failures[0]


class _Server(uvicorn.Server):
    """Leaves a signal alone that is ignored, as shells have it for what runs behind them."""

    def __init__(self, config: uvicorn.Config):
        super().__init__(config)
        both = (signal.SIGTERM, signal.SIGINT)
        self._ignored = [which for which in both if signal.getsignal(which) == signal.SIG_IGN]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig not in self._ignored:
            super().handle_exit(sig, frame)


class _Protocol(H11Protocol):
    """What is not HTTP at all is refused as everything else is: in JSON."""

    def send_400_response(self, msg: str) -> None:
        logging.getLogger("uvicorn.error").debug(msg)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # nothing of an answer is out yet
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(_REFUSAL)).encode()),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=_REFUSAL),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()
