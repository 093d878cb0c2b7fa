"""Whether the other processes of a training are there, and what they agree on, over TCP.

Each process keeps one connection with process 0, and both sides of it say a byte a second: a
process that is killed, stopped or cut off ends all others within ten seconds, whatever they are
waiting for. Standard library only.
"""

import contextlib
import json
import queue
import selectors
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skipjax.connections import HELLO_SECONDS, NOTICE_SECONDS, Link, notice, reach
from skipjax.errors import PeerError, end_now

WAIT_SECONDS = 300.0  # for processes that have not been started yet
SILENCE_SECONDS = 8.0
_BEAT_SECONDS = 1.0
_GRACE_SECONDS = 2.0  # to end with an error of one's own, where another process has ended with one
_GO_ON = "start all again with the same commands: they go on from the last checkpoint"
_MEND = "mend that, and start all again"


class Peers:
    """The processes of a training, as one of them sees them, from `lead` or `join` to `close`.

    Args:
      index: which process this is.
      count: how many there are.
      silence_seconds: after how long without a byte a process counts as gone.

    Attributes:
      index: which process this is.
      told: what process 0 had to say when all had come.
    """

    def __init__(self, index: int, count: int, *, silence_seconds: float = SILENCE_SECONDS):
        self.index, self._count = index, count
        self._host = socket.gethostname()
        self._silence = silence_seconds
        self.told: Any = None
        # What the main thread asks of the other one, which alone uses the sockets.
        self._asked: queue.SimpleQueue[dict] = queue.SimpleQueue()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._here = threading.Event()  # all have come, or `_failure` says why not
        self._failure: PeerError | None = None
        self._met: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._all_left = threading.Event()
        self._closed = threading.Event()
        # All that follows is the other thread's own.
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        self._strangers: list[Link] = []
        self._links: dict[int, Link] = {}
        self._left: set[int] = set()
        self._arrived: dict[int, str] = {}
        self._value: Any = None
        self._ending = False  # this process is, by an error of its own
        self._end: tuple[float, PeerError] | None = None  # when another's error ends this one
        self._closing: float | None = None
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)

    @classmethod
    def lead(
        cls,
        listener: socket.socket,
        count: int,
        *,
        agree: Mapping[str, Any],
        told: Any = None,
        token: str = "",
        wait_seconds: float = WAIT_SECONDS,
        **options,
    ) -> "Peers":
        """Process 0: waits until all have come.

        Args:
          listener: from `connections.listen`.
          count: of processes, this one included.
          agree: what has to be the same in all processes, by name.
          told: what the others get to know, JSON-able.
          token: what they have to know.
          wait_seconds: how long to wait.
          **options: of `Peers`.

        Raises:
          PeerError: not all have come; the message names those that have not.
        """
        peers = cls(0, count, **options)
        listener.setblocking(False)
        peers._listener, peers._token = listener, token
        peers._agree = json.loads(json.dumps(agree))
        peers._selector.register(listener, selectors.EVENT_READ)
        peers.told = told
        peers._thread.start()
        with peers._given_up_on_error():
            here = peers._here.wait(min(NOTICE_SECONDS, wait_seconds))
            if not here and wait_seconds > NOTICE_SECONDS:
                port = listener.getsockname()[1]
                notice(
                    f"waiting {wait_seconds:g} s at most for {peers._missing()} to reach port "
                    f"{port} of {peers._host}"
                )
                here = peers._here.wait(wait_seconds - NOTICE_SECONDS)
            if not here:
                raise PeerError(
                    f"{peers._missing()} did not come within {wait_seconds:g} s; start all "
                    f"{count} within that time, and check that they can reach this host."
                )
        return peers

    @classmethod
    def join(
        cls,
        index: int,
        count: int,
        addresses: Sequence[tuple[str, int]],
        *,
        agree: Mapping[str, Any],
        token: str = "",
        wait_seconds: float = WAIT_SECONDS,
        **options,
    ) -> "Peers":
        """Any other process: finds process 0 and waits until all have come.

        Args:
          index: which process this is, from 1.
          addresses: host and port of process 0, tried in turn until one answers.
          count, agree, token, wait_seconds, **options: as for `lead`.

        Raises:
          ConfigError: process 0 has other values in `agree`, or has this process already.
          PeerError: process 0 does not answer, or it gave up.
        """
        hello = {"process": index, "token": token, "agree": agree, "host": socket.gethostname()}
        link = reach(addresses, hello, wait_seconds)
        peers = cls(index, count, **options)
        peers._links[0] = link
        peers._selector.register(link.socket, selectors.EVENT_READ, link)
        peers._thread.start()
        with peers._given_up_on_error():
            peers._here.wait()  # process 0 counts the seconds
            if peers._failure:
                raise peers._failure
        return peers

    def meet(self, name: str, value: Any = None) -> Any:
        """Waits until all processes are there, as often as it takes.

        Returns:
          What process 0 passed as its value, as JSON has it.
        """
        self._ask({"at": name, "value": json.loads(json.dumps(value))})
        return self._met.get()

    def farewell(self) -> None:
        """Says that this process has done all it had to, and waits until all have said so.

        Until then, a process that is gone ends this one, too, so that it is asked to try again.
        """
        self._ask({"farewell": True})
        self._all_left.wait()

    def gone(self, why: str, code: int = PeerError.exit_code) -> None:
        """Says that this process ends with an error, which then ends the others.

        From here on nothing ends this one any more.

        Args:
          why: for their messages.
          code: with which they end: of an error that would come again, its own.
        """
        said = threading.Event()
        self._ask({"gone": why, "code": code, "said": said})
        said.wait(1.0)

    def close(self) -> None:
        """Ends the connections; process 0 first waits some seconds for the others to do so."""
        self._ask({"close": True})
        self._closed.wait(10.0)

    @contextlib.contextmanager
    def _given_up_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.gone(str(error) or type(error).__name__)
            self.close()
            raise

    def _ask(self, what: dict) -> None:
        self._asked.put(what)
        with contextlib.suppress(OSError):
            self._wake.send(b"\n")

    def _missing(self) -> str:
        missing = sorted({*range(1, self._count)} - {*self._links})
        named = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        return f"process{'es' * (len(missing) > 1)} {named}"

    # From here on: the other thread.

    def _watch(self) -> None:
        try:
            beat = time.monotonic()
            while not self._closed.is_set():
                began = time.monotonic()
                for key, _ in self._selector.select(max(0.0, min(beat - began, _BEAT_SECONDS))):
                    self._ready(key)
                now = time.monotonic()
                if now - began > self._silence / 2:  # this process or its machine was suspended
                    for link in self._links.values():
                        link.heard = now
                while not self._asked.empty():
                    self._do(self._asked.get())
                if now >= beat:
                    beat = now + min(_BEAT_SECONDS, self._silence / 4)
                    for link in self._links.values():
                        self._send(link)
                self._check(now)
        except Exception as error:
            end_now(PeerError(f"watching the other processes failed ({error!r}); {_GO_ON}."))
        finally:
            for link in [*self._links.values(), *self._strangers]:
                link.socket.close()
            for other in (self._listener, self._wake, self._woken):
                if other:
                    other.close()
            self._selector.close()

    def _ready(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._woken:
            self._woken.recv(4096)
        elif key.fileobj is self._listener:
            with contextlib.suppress(OSError):
                link = Link(self._listener.accept()[0])
                self._strangers.append(link)
                self._selector.register(link.socket, selectors.EVENT_READ, link)
        else:
            link = key.data
            try:
                for message in link.receive():
                    if link.process is None:
                        self._greet(link, message)
                    else:
                        self._take(link.process, message)
                link.flush()
                self._wait_for(link)
            except (OSError, ValueError):
                self._lose(link, "was killed or lost its connection")

    def _greet(self, link: Link, hello: dict) -> None:
        """A stranger that says what it has to becomes a link; raises ValueError for others."""
        process, agree, host = (hello.get(name) for name in ("process", "agree", "host"))
        if hello.get("token") != self._token or not isinstance(agree, dict):
            raise ValueError("not one of ours")
        if not isinstance(process, int):
            raise ValueError("not one of ours")
        refused, late = "", self._here.is_set()
        for name, value in self._agree.items():
            if agree.get(name) != value:
                theirs = f"{agree.get(name)} in process {process}"
                refused = f"{name} is {theirs} and {value} in process 0"
                break
        else:
            if not 0 < process < self._count:
                refused = f"there is no process {process} of {self._count}"
            elif process in self._links:
                known = self._links[process].host
                refused = f"process {process} is there already, on {known}; each has its own id"
        if refused or late:
            link.send({"refused": "" if late else refused})
            if not late:
                notice(
                    f"refused one on {str(host)[:100]}: {refused}; waiting for {self._missing()}"
                )
            raise ValueError("refused")
        self._strangers.remove(link)
        link.process, link.host, link.heard = process, str(host)[:100], time.monotonic()
        self._links[process] = link
        self._send(link, {"host": self._host})
        if len(self._links) == self._count - 1:
            self._tell({"here": self.told})
            self._here.set()

    def _take(self, process: int, message: dict) -> None:
        """What another process says."""
        if "here" in message:
            self.told = message["here"]
            self._here.set()
        elif "met" in message:
            self._met.put(message["met"])
        elif "all left" in message:
            self._all_left.set()
        elif "dead" in message:
            self._end_with(message["dead"])
        elif "at" in message:
            self._arrive(process, message["at"])
        elif "farewell" in message:
            self._leave(process)
        elif "gone" in message:
            if self.index == 0:
                self._tell(message)
            about, why = message["about"], message["gone"].removesuffix(".")
            fix = _GO_ON if message["code"] == PeerError.exit_code else _MEND
            error = PeerError(f"{about} ended: {why}; {fix}.")
            error.exit_code = message["code"]
            if not self._here.is_set():
                self._fail(error)
            elif self._end is None:
                self._end = time.monotonic() + _GRACE_SECONDS, error

    def _do(self, asked: dict) -> None:
        """What the main thread asks for."""
        if "close" in asked:
            self._closing = time.monotonic() + HELLO_SECONDS
        elif "gone" in asked:
            self._ending = True
            about = self._named(self.index)
            self._tell({"gone": asked["gone"], "code": asked["code"], "about": about})
            asked["said"].set()
        elif self.index:
            self._tell({name: value for name, value in asked.items() if name != "value"})
        elif "at" in asked:
            self._value = asked["value"]
            self._arrive(0, asked["at"])
        else:
            self._leave(0)

    def _arrive(self, process: int, name: str) -> None:
        self._arrived[process] = name
        if len(self._arrived) == self._count:
            names = {*self._arrived.values()}
            if len(names) > 1:
                self._end_with(f"the processes are at different places: {sorted(names)}")
            self._arrived.clear()
            self._tell({"met": self._value})
            self._met.put(self._value)

    def _leave(self, process: int) -> None:
        self._left.add(process)
        if len(self._left) == self._count:
            self._tell({"all left": True})
            self._all_left.set()

    def _check(self, now: float) -> None:
        """Ends what is over: connections that are silent, those that never spoke, this process."""
        for link in [*self._links.values()]:
            if now - link.heard > self._silence:
                self._lose(link, f"has been silent for {self._silence:g} s")
        for link in [*self._strangers]:
            if now - link.heard > HELLO_SECONDS:
                self._lose(link, "never spoke")
        if self._end and now >= self._end[0] and not self._ending:
            end_now(self._end[1])
        if self._closing and (self.index or not self._links or now >= self._closing):
            self._closed.set()

    def _lose(self, link: Link, why: str) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(link.socket)
        link.socket.close()
        if link.process is None:
            if link in self._strangers:
                self._strangers.remove(link)
            return
        del self._links[link.process]
        if self._all_left.is_set() or self._closing or self._ending or self._end:
            return
        if not self._here.is_set():  # one that had come may come again
            if self.index:
                self._fail(PeerError(f"process 0 on {link.host} {why}; {_GO_ON}."))
        elif link.process == 0 or link.process not in self._left:  # the end of 0 ends jax for all
            self._end_with(f"{self._named(link.process, link.host)} {why}")

    def _fail(self, error: PeerError) -> None:
        if self.index:
            self._failure = error
            self._here.set()

    def _end_with(self, what: str) -> None:
        if self._ending:
            return
        self._tell({"dead": what})
        time.sleep(0.3)  # others may have much to say at this moment; ours is to be the last line
        end_now(PeerError(f"{what}; {_GO_ON}."))

    def _named(self, process: int, host: str = "") -> str:
        if process == self.index:
            host = self._host
        elif process in self._links:
            host = self._links[process].host
        return f"process {process} on {host}"

    def _tell(self, message: dict) -> None:
        """Says it to process 0, or from there to all."""
        for link in [*self._links.values()]:
            self._send(link, message)

    def _send(self, link: Link, message: dict | None = None) -> None:
        with contextlib.suppress(OSError):  # that it is gone is noticed where it is read
            link.send(message)
            self._wait_for(link)

    def _wait_for(self, link: Link) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.unsent else 0)
        with contextlib.suppress(KeyError, ValueError):
            if self._selector.get_key(link.socket).events != events:
                self._selector.modify(link.socket, events, link)
