"""TCP connections that carry JSON, a line each, where an empty line says that one is alive.

Standard library only.
"""

import contextlib
import errno
import json
import socket
import sys
import time
from collections.abc import Sequence

from skipjax.errors import BusyError, ConfigError, PeerError, one_line

HELLO_SECONDS = 5.0  # for a new connection to say who it is
NOTICE_SECONDS = 10.0  # of waiting, and it is said what for
_HELLO_BYTES = 1 << 16


def listen(port: int = 0) -> socket.socket:
    """Where the other processes find process 0, on all of the host's addresses; 0 is any port.

    Raises:
      BusyError: the port is in use.
      ConfigError: the port is not for us.
    """
    try:
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # no IPv6 after all, or what IPv4 says better
                return socket.create_server(
                    ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
                )
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"port {port} of this host is in use; wait, or choose another."
            raise BusyError(text) from None
        raise ConfigError(f"port {port} cannot be opened ({error.strerror}).") from None


class Link:
    """A connection, and what of it is half read or half written: JSON in lines; empty is a beat.

    `process` is None until the other end has said which one it is.
    """

    def __init__(self, connection: socket.socket, process: int | None = None, host: str = ""):
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self.process, self.host = connection, process, host
        self.heard = time.monotonic()
        self.unsent = bytearray()
        self._begun: list[bytes] = []  # parts of a line

    def receive(self) -> list[dict]:
        """Raises OSError when the connection is over, and ValueError for what is not ours."""
        try:
            found = self.socket.recv(1 << 16)
        except BlockingIOError:
            return []
        if not found:
            raise ConnectionError("closed")
        if self.process is not None:  # a stranger has seconds, not seconds for each byte
            self.heard = time.monotonic()
        self._begun.append(found)
        lines = []
        if b"\n" in found:
            *lines, begun = b"".join(self._begun).split(b"\n")
            self._begun = [begun]
        if self.process is None and sum(map(len, self._begun)) > _HELLO_BYTES:
            raise ValueError("too long")
        try:
            messages = [json.loads(line) for line in lines if line]
        except RecursionError:
            raise ValueError("too deep") from None
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("not ours")
        return messages

    def send(self, message: dict | None = None) -> None:
        """Without a message, a beat."""
        self.unsent += (json.dumps(message).encode() if message else b"") + b"\n"
        self.flush()

    def flush(self) -> None:
        while self.unsent:
            try:
                del self.unsent[: self.socket.send(self.unsent)]
            except BlockingIOError:
                return


def reach(addresses: Sequence[tuple[str, int]], hello: dict, wait_seconds: float) -> Link:
    """Connects with process 0, which has answered the hello; errors are those of `Peers.join`."""
    began, noticed = time.monotonic(), False
    while True:
        for host, port in addresses:
            try:
                with contextlib.ExitStack() as stack:
                    connection = socket.create_connection((host, port), timeout=HELLO_SECONDS)
                    stack.enter_context(connection)
                    if connection.getsockname() == connection.getpeername():
                        raise OSError("nobody there")  # but this very socket, by its random port
                    connection.sendall(json.dumps(hello).encode() + b"\n")
                    answer = _answer(connection)
                    if "host" in answer:
                        stack.pop_all()
                        return Link(connection, 0, str(answer["host"])[:100])
                if answer.get("refused"):
                    raise ConfigError(f"{answer['refused']}.")
                # As an earlier training that is about to end has begun.
                begun = "refused" in answer
                problem = f"{host}:{port} has {'begun without this one' if begun else 'no skipjax'}"
            except (OSError, UnicodeError, OverflowError) as error:
                problem = f"{host}:{port} says {getattr(error, 'strerror', None) or error}"
        waited = time.monotonic() - began
        if waited >= wait_seconds:
            raise PeerError(
                f"process 0 did not answer within {wait_seconds:g} s ({problem}); start all "
                "processes within that time, and check where it is."
            )
        if waited >= NOTICE_SECONDS and not noticed:
            noticed = True
            notice(f"waiting {wait_seconds:g} s at most for process 0 ({problem})")
        time.sleep(0.2)


def _answer(connection: socket.socket) -> dict:
    """The first line that comes; {} if it is none of ours, or none within some seconds."""
    line, deadline = b"", time.monotonic() + HELLO_SECONDS
    # Byte for byte: what follows the line is for others to read.
    while not line.endswith(b"\n") and len(line) < _HELLO_BYTES and time.monotonic() < deadline:
        found = connection.recv(1)
        if not found:
            raise ConnectionError("closed at once")
        line += found
    with contextlib.suppress(ValueError, RecursionError):
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else {}
    return {}


def notice(text: str) -> None:
    print(one_line(PeerError(f"{text} ...")), file=sys.stderr, flush=True)
