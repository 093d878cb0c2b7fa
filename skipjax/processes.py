"""One training by several processes: how they find each other, agree, and leave.

    with processes.start("node1:12345", num_processes=2, process_id=0):
        ...  # here jax.devices() are those of all processes

jax connects their devices; `peers` connects the processes themselves, notices when one is gone,
and lets them wait for each other as long as it takes. (On CPUs the first collective operation of a
group of devices fails where one of them is half a minute late.)
"""

import contextlib
import ctypes
import json
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from skipjax import __version__, errors
from skipjax.connections import listen
from skipjax.errors import ConfigError, Interrupted, PeerError, SkipjaxError, end_now
from skipjax.peers import WAIT_SECONDS, Peers

_peers: Peers | None = None
# A jax error that is another process's fault; its thread is given this long to say so.
_PATIENCE_SECONDS = 10.0
# It has no type of its own: of a gloo that lost a connection, it is a ValueError.
_STATUS = re.compile(
    "(ABORTED|CANCELLED|DATA_LOSS|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|UNAVAILABLE"
    "|UNKNOWN): "
)


@contextlib.contextmanager
def start(
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    *,
    cluster: bool = False,
    wait_seconds: float = WAIT_SECONDS,
) -> Iterator[None]:
    """Joins the other processes of a training; without arguments, or with one process, nothing.

    Comes before anything else that makes jax look for devices. Within the block, a process that is
    gone ends this one with exit code 75; one that ends with an error of skipjax's ends the others
    with the same code, one with any other error with 75. The block ends where all have come to its
    end.

    Args:
      coordinator: HOST:PORT of process 0, as all can reach it; PORT is any free one there.
      num_processes: how many processes there are.
      process_id: which one this is, from 0.
      cluster: take all three from Slurm, Open MPI or Kubernetes.
      wait_seconds: how long to wait for processes that are not there yet.

    Raises:
      ConfigError: arguments that cannot be, or do not fit those of process 0.
      BusyError: process 0's port is in use.
      PeerError: not all processes came.
    """
    global _peers
    given = bool(coordinator), num_processes != 0, process_id != -1
    if cluster and any(given):
        raise ConfigError("--cluster has the cluster say what --coordinator and the like would.")
    if not cluster and not any(given):
        yield
        return
    if cluster:
        peers = _join_cluster(wait_seconds)
    else:
        host, port = _checked(coordinator, num_processes, process_id)
        peers = None
        if num_processes > 1:
            peers = _join(host, port, num_processes, process_id, wait_seconds)
    if peers is None:  # it is alone
        yield
        return
    _peers = peers
    try:
        with peer_errors():
            yield
        peers.farewell()
    except Interrupted:  # as all are, at the same step
        peers.farewell()
        raise
    except BaseException as error:
        peers.gone(_why(error), _code(error))
        raise
    finally:
        _peers = None
        _leave(peers)


def number() -> int:
    """How many processes train together."""
    return jax.process_count()


def index() -> int:
    """Which of them this is, from 0."""
    return jax.process_index()


def first() -> bool:
    """Whether this process writes what only one may."""
    return jax.process_index() == 0


def from_first(value: Any) -> Any:
    """What process 0 passed, JSON-able, when all have come here; with one process, `value`."""
    return _peers.meet("a value of process 0", value if first() else None) if _peers else value


def by_first(work: Callable[[], Any]) -> Any:
    """What `work()`, done by the first process alone, returns or raises, on all of them.

    Args:
      work: returns something JSON-able.

    Raises:
      SkipjaxError: as `work` does. Whatever else it raises ends the first process.
    """
    value = error = None
    if first():
        try:
            value = work()
        except SkipjaxError as caught:
            error = caught
    value, said = from_first([value, error and [type(error).__name__, str(error)]])
    if error is not None:
        raise error
    if said is not None:
        raise getattr(errors, said[0])(said[1])
    return value


def check_same(values: dict[str, Any]) -> None:
    """Refuses what process 0 has otherwise.

    Args:
      values: JSON-able, by names for the message.

    Raises:
      ConfigError: one of them differs; the message has both values.
    """
    if _peers is None:
        return
    ours, theirs = json.loads(json.dumps(values)), from_first(values)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ConfigError(
                f"{name} is {ours.get(name)!r} in process {index()} and {theirs.get(name)!r} in "
                "process 0; start all with the same options."
            )


def barrier(name: str) -> None:
    """Returns when all processes are at the barrier of this name."""
    if _peers:
        _peers.meet(name)


def tell_gone(why: str) -> None:
    """Says to the others, which then end, too, why this process is about to end."""
    if _peers:
        _peers.gone(why)


@contextlib.contextmanager
def first_goes_first(name: str) -> Iterator[None]:
    """Process 0 runs the block, and then the others do: what it prepares, they find."""
    if not first():
        barrier(name)
    yield
    if first():
        barrier(name)


@contextlib.contextmanager
def peer_errors() -> Iterator[None]:
    """An error of jax within the block may be the first sign that another process is gone.

    If so, this process ends as such a process does; it takes some seconds to know.

    Raises:
      PeerError: what failed was the exchange with other processes, and yet all are there.
    """
    try:
        yield
    except PeerError:
        raise
    except Exception as error:
        if _peers is None or (found := _of_others(error)) is None:
            raise
        time.sleep(_PATIENCE_SECONDS)
        text = " ".join(str(found).split())[:300]
        raise PeerError(
            f"the exchange with other processes failed ({text}); start all again with the same "
            "commands: they go on from the last checkpoint."
        ) from error


def _why(error: BaseException) -> str:
    """What the others are told of the error that ends this process."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "it was asked to end"
    return " ".join((str(error) or type(error).__name__).split())[:500]


def _code(error: BaseException) -> int:
    """With which the others are to end: that of what would come again, or that for a new try."""
    return error.exit_code if isinstance(error, SkipjaxError) else PeerError.exit_code


def _of_others(error: BaseException | None) -> BaseException | None:
    """The error of jax's runtime behind another one, if it may be of another process's making."""
    while error is not None and not _STATUS.match(str(error)):
        error = error.__cause__ or error.__context__
    return error


def _checked(coordinator: str, num_processes: int, process_id: int) -> tuple[str, int]:
    """Host and port."""
    if not coordinator or num_processes == 0 or process_id == -1:
        raise ConfigError(
            "several processes need all of --coordinator=HOST:PORT, --num_processes=N and "
            "--process_id=I, or --cluster alone."
        )
    host, colon, port = coordinator.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ConfigError(f"--coordinator={coordinator}: wanted HOST:PORT, such as node1:12345.")
    if num_processes < 1:
        raise ConfigError(f"--num_processes={num_processes}: wanted at least 1.")
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process_id={process_id}: wanted 0 to {num_processes - 1}, as "
            f"--num_processes={num_processes}."
        )
    return host, int(port)


def _join(host: str, port: int, count: int, process: int, wait_seconds: float) -> Peers:
    """Connects the processes, and then jax by another port that process 0 finds free."""
    agree = {"num_processes": count, **_versions()}
    if process == 0:
        told = {"jax": _free_port()}
        peers = Peers.lead(listen(port), count, agree=agree, told=told, wait_seconds=wait_seconds)
    else:
        address = [(host, port)]
        peers = Peers.join(process, count, address, agree=agree, wait_seconds=wait_seconds)
    where = f"[{host}]" if ":" in host else host
    try:
        _initialize(
            f"{where}:{peers.told['jax']}",
            count,
            process,
            coordinator_bind_address=f"[::]:{peers.told['jax']}",
            cluster_detection_method="deactivate",  # all devices of the host
        )
    except Exception as error:
        peers.gone(str(error))
        _leave(peers)
        raise
    return peers


def _join_cluster(wait_seconds: float) -> Peers | None:
    """Connects jax as the cluster says, and then the processes by a port that jax passes on."""
    here = threading.Event()

    def give_up():
        if not here.wait(wait_seconds):
            text = f"not all processes of the cluster's job came within {wait_seconds:g} s"
            end_now(PeerError(f"{text}; start all again with the same command."))

    threading.Thread(target=give_up, daemon=True).start()
    try:
        try:
            _initialize()
        except ValueError as error:
            raise ConfigError(
                f"--cluster finds none of Slurm, Open MPI and Kubernetes ({error}); give "
                "--coordinator, --num_processes and --process_id instead."
            ) from error
        count, process = jax.process_count(), jax.process_index()
        if count == 1:
            return None
        host, listener = socket.gethostname(), listen() if process == 0 else None
        port = listener.getsockname()[1] if listener else 0
        mine = {"host": host, "hosts": _addresses(), "port": port, "token": secrets.token_hex(16)}
        there = _broadcast(mine)
        options = {"agree": _versions(), "token": there["token"], "wait_seconds": wait_seconds}
        if listener:
            return Peers.lead(listener, count, **options)
        hosts = ["127.0.0.1"] * (there["host"] == host) + there["hosts"]
        return Peers.join(process, count, [(h, there["port"]) for h in hosts], **options)
    finally:
        here.set()


def _initialize(*arguments, **options) -> None:
    _sleep_before_abort()
    # SIGTERM is ours. And jax is not to wait for, or end the process because of, those that are
    # gone: that is for `peers`, which knows sooner and says so in a line.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(
            *arguments,
            **options,
            initialization_timeout=2 * int(WAIT_SECONDS),
            heartbeat_timeout_seconds=100,
            shutdown_timeout_seconds=5,
        )
    except jax.errors.JaxRuntimeError as error:
        text = " ".join(str(error).split())[:300]
        raise PeerError(f"jax could not connect the processes ({text}); try again.") from error


def _leave(peers: Peers) -> None:
    """Process 0 last: the others' jax would abort without its."""
    if peers.index == 0:
        peers.close()
        jax.distributed.shutdown()
    else:
        jax.distributed.shutdown()
        peers.close()


def _sleep_before_abort() -> None:
    """Has whatever aborts this process sleep for some seconds first.

    XLA aborts at the very moment that the connection with process 0 breaks, from a thread of its
    own. Instead of being a race that `peers` may lose, this gives it the time to end the process
    as it should be. What calls `sleep` is the C library, with the signal's number, 6, as seconds.
    """
    with contextlib.suppress(OSError, AttributeError):  # no such C library: the race, then
        library = ctypes.CDLL(None)
        library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
        library.signal.restype = ctypes.c_void_p
        library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))


def _versions() -> dict[str, str]:
    return {"the version of skipjax": __version__, "the version of jax": jax.__version__}


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _addresses() -> list[str]:
    """By what others may reach this host, best first."""
    found = [socket.gethostname(), socket.getfqdn()]
    with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as outward:
        outward.connect(("10.255.255.255", 1))  # sends nothing
        found.append(outward.getsockname()[0])
    with contextlib.suppress(OSError):
        found += [info[4][0] for info in socket.getaddrinfo(found[0], None)]
    return list(dict.fromkeys(found))


def _broadcast(value: Any) -> Any:
    """As `from_first`, by jax, while there is nothing else; at most 4 KB."""
    buffer = np.frombuffer(json.dumps(value).encode().ljust(4096), np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8).tobytes())
