"""Finding input files and opening them as streams of bytes: plain, gzipped, or members of a tar."""

import contextlib
import filecmp
import glob
import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from skipjax.errors import DataError

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, what is being done
Sources = str | os.PathLike | Sequence[str | os.PathLike]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_TAR_HEADER_BYTES = 4 << 20  # of one member: a name, and what other tools note beside it
_GZIP_MAGIC = b"\x1f\x8b"
_DAMAGE = (
    EOFError,
    RecursionError,  # tar headers on tar headers
    UnicodeDecodeError,  # names of Parquet's columns
    gzip.BadGzipFile,
    pa.ArrowException,
    tarfile.TarError,
    zlib.error,
)


def find(
    sources: Sources,
    suffixes: Sequence[str],
    *,
    leave_out: Sequence[str] = (),
    only: Sequence[str] = ("",),
) -> list[Path]:
    """The files that `sources` name, sorted by name.

    Args:
      sources: one path or several; each a file, a folder, or a glob pattern.
      suffixes: endings of the files to take from a folder. A file named directly, or by a
        pattern, is taken whatever its ending.
      leave_out: beginnings of names not to take from a folder; hidden files never are.
      only: beginnings of which a name must have one, to be taken from a folder.

    Raises:
      DataError: a source does not exist or has no such file, a folder holds one that cannot be
        read, or a file is named twice, or lies there twice.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    found: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            with reading(str(path)):
                taken = [p for p in path.iterdir() if _taken(p, suffixes, leave_out, only)]
            if not taken:
                wanted = _listed([f"{start}*" for start in only] if all(only) else suffixes)
                raise DataError(f"{path} has no {wanted} file; {_contents(path)}.")
            found += taken
        elif path.exists():
            found.append(path)
        elif glob.has_magic(str(path)):
            matches = [Path(p) for p in glob.glob(str(path), recursive=True)]
            taken = [p for p in matches if not p.is_dir()]
            if not taken:
                raise DataError(f"no file matches {path}.")
            found += taken
        else:
            raise DataError(f"{path}: no such file or folder.")
    found.sort(key=lambda p: (p.name, str(p)))
    _check_different(found)
    return found


def _check_different(paths: Sequence[Path]) -> None:
    """Raises a DataError if a file cannot be had, or if its rows would be counted twice."""
    seen: dict[Any, Path] = {}
    for path in paths:
        with reading(str(path)):
            if path.is_dir():
                raise DataError(f"{path} is a folder, not a file; rename or move it.")
            stat = path.stat()
            keys = [(stat.st_dev, stat.st_ino), str(path.resolve()).removesuffix(".gz")]
            others = [seen.setdefault(key, path) for key in keys]
            if stat.st_size:
                with open(path, "rb") as file:
                    start = hashlib.sha256(file.read(1 << 16)).digest()
                other = seen.setdefault((stat.st_size, start), path)
                if other is not path and filecmp.cmp(path, other, shallow=False):
                    others.append(other)
        for other in others:
            if other is not path:
                raise DataError(
                    f"{path} is given twice: it has the same rows as {other}; name each file once."
                )


def shown(text: str, length: int) -> str:
    """`text` for a message: printable, so that it is one line, and not too long."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= length else text[: length - 3] + "..."


def counted(number: int, one: str, many: str = "") -> str:
    """1 session, 1,234 sessions; `many` where that is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns what reading the file `name` can raise into a DataError that names it."""
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{name}: cannot be read: {error.strerror}.") from error
        reason = shown(str(error).rstrip("."), 200)
        raise DataError(
            f"{name} is damaged, cut short or not what its name says ({reason}); fetch it again."
        ) from error


@contextlib.contextmanager
def open_stream(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Opens a file whether gzipped or not, going by its first bytes rather than its name.

    Yields:
      The stream of (unpacked) bytes, and the file below it, whose `position` measures progress.
    """
    with contextlib.ExitStack() as stack:
        with reading(str(path)):
            raw = stack.enter_context(open(path, "rb"))
            packed = raw.peek(2)[:2] == _GZIP_MAGIC
        stream = stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw
        yield stream, raw


def position(raw: BinaryIO) -> int:
    """Bytes of a file that have been read; 0 if it is a pipe, which does not tell."""
    return raw.tell() if raw.seekable() else 0


def members(
    path: Path, suffixes: Sequence[str], *, leave_out: Sequence[str] = ()
) -> Iterator[tuple[str, BinaryIO, BinaryIO]]:
    """The files in `path`: itself, or the members of a tar, read in order and never unpacked.

    Yields:
      Name for messages, stream of bytes (to be read before going on), file below it.

    Raises:
      DataError: a tar that is damaged or has no member with one of the `suffixes`.
    """
    with open_stream(path) as (stream, raw):
        if not path.name.lower().endswith(TAR_SUFFIXES):
            yield str(path), stream, raw
            return
        count, metered = 0, _Metered(stream)
        with contextlib.ExitStack() as stack:
            with reading(str(path)):
                archive = stack.enter_context(
                    tarfile.open(
                        fileobj=metered,
                        mode="r|",
                        bufsize=1 << 20,
                        tarinfo=_Header,
                        ignore_zeros=True,  # the end is where the file ends
                    )
                )
            while True:
                with reading(str(path)):
                    member = archive.next()
                    archive.members, archive.pax_headers = [], {}  # it would keep all it has seen
                if member is None:
                    break
                name = f"{path}:{shown(member.name, 200)}"
                if member.issparse():
                    raise DataError(f"{name} is stored with holes; make the archive without.")
                metered.left = _TAR_HEADER_BYTES
                if not member.isreg():
                    continue
                metered.left += member.size
                if _taken(Path(member.name), suffixes, leave_out):
                    count += 1
                    with reading(name):
                        file = stack.enter_context(archive.extractfile(member))
                        packed = member.name.lower().endswith(".gz")
                    yield name, gzip.GzipFile(fileobj=file) if packed else file, raw
        _check_end(path, stream, raw)
        if not count:
            raise DataError(f"{path} has no {_listed(suffixes)} member.")


class _Header(tarfile.TarInfo):
    """A header that is damaged is an error: `tarfile` would take it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.strip(b"\0"):
                raise tarfile.ReadError(f"a member's header: {error}") from error
            raise


class _Metered:
    """The bytes of a tar, for `tarfile`, which would hold a header of any size in memory.

    And which, told to skip more bytes than there are, would read on at the end nearly for ever.
    """

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._ends = 0
        self.left = _TAR_HEADER_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.left -= len(data)
        self._ends += not data
        if self.left < 0:
            raise tarfile.ReadError("a header of several MB")
        if self._ends > 10:
            raise tarfile.ReadError("unexpected end of data")
        return data


def _check_end(path: Path, stream: BinaryIO, raw: BinaryIO) -> None:
    # `tarfile` takes an archive that was cut between two members for a whole one.
    with reading(str(path)):
        if stream is not raw:
            while stream.read(1 << 20):  # gzip checks length and checksum at its end
                pass
        else:
            size = raw.seek(0, os.SEEK_END)
            raw.seek(max(size - 1024, 0))
            if raw.read(1024).strip(b"\0"):
                raise tarfile.ReadError("no end-of-archive mark")


def _taken(
    path: Path, suffixes: Sequence[str], leave_out: Sequence[str], only: Sequence[str] = ("",)
) -> bool:
    name = path.name.lower()
    return (
        name.endswith(tuple(suffixes))
        and name.startswith(tuple(start.lower() for start in only))
        and not name.startswith((".", *leave_out))
    )


def _listed(suffixes: Sequence[str]) -> str:
    return " or ".join(suffixes)


def _contents(folder: Path) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    if not names:
        return "it is empty"
    return f"it holds {', '.join(names[:8])}" + (", ..." if len(names) > 8 else "")
