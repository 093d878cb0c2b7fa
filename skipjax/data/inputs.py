"""Finding input files and opening them as streams of bytes: plain, gzipped, or members of a tar."""

import contextlib
import glob
import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from skipjax.errors import DataError

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, what is being done
Sources = str | os.PathLike | Sequence[str | os.PathLike]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_GZIP_MAGIC = b"\x1f\x8b"
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, pa.ArrowException)


def find(sources: Sources, suffixes: Sequence[str], *, leave_out: Sequence[str] = ()) -> list[Path]:
    """The files that `sources` name, sorted by name.

    Args:
      sources: one path or several; each a file, a folder, or a glob pattern.
      suffixes: endings of the files to take from a folder. A file named directly, or by a
        pattern, is taken whatever its ending.
      leave_out: beginnings of names not to take from a folder; hidden files never are.

    Raises:
      DataError: a source does not exist, or has no such file, or a file is named twice.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    found: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            taken = [p for p in path.iterdir() if p.is_file() and _taken(p, suffixes, leave_out)]
            if not taken:
                raise DataError(f"{path} has no {_listed(suffixes)} file; {_contents(path)}.")
            found += taken
        elif path.exists():
            found.append(path)
        elif glob.has_magic(str(path)):
            matches = [Path(p) for p in glob.glob(str(path), recursive=True)]
            taken = [p for p in matches if p.is_file()]
            if not taken:
                raise DataError(f"no file matches {path}.")
            found += taken
        else:
            raise DataError(f"{path}: no such file or folder.")
    seen = set()
    for path in found:
        if (real := path.resolve()) in seen:
            raise DataError(f"{path} is given twice; name each file once.")
        seen.add(real)
    return sorted(found, key=lambda p: (p.name, str(p)))


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns what reading the file `name` can raise into a DataError that names it."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{name} is damaged, cut short or not what its name says ({error}); fetch it again."
        ) from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}.") from error


@contextlib.contextmanager
def open_stream(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Opens a file whether gzipped or not, going by its first bytes rather than its name.

    Yields:
      The stream of (unpacked) bytes, and the file below it, whose `tell()` measures progress.
    """
    with contextlib.ExitStack() as stack:
        with reading(str(path)):
            raw = stack.enter_context(open(path, "rb"))
            packed = raw.peek(2)[:2] == _GZIP_MAGIC
        stream = stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw
        yield stream, raw


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
        if not path.name.endswith(TAR_SUFFIXES):
            yield str(path), stream, raw
            return
        count = 0
        with contextlib.ExitStack() as stack:
            with reading(str(path)):
                archive = stack.enter_context(
                    tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20)
                )
            while True:
                with reading(str(path)):
                    member = archive.next()
                    archive.members = []  # it would keep every member it has passed
                if member is None:
                    break
                if member.isreg() and _taken(Path(member.name), suffixes, leave_out):
                    count += 1
                    name = f"{path}:{member.name}"
                    with reading(name):
                        file = stack.enter_context(archive.extractfile(member))
                        packed = member.name.endswith(".gz")
                    yield name, gzip.GzipFile(fileobj=file) if packed else file, raw
        _check_end(path, stream, raw)
        if not count:
            raise DataError(f"{path} has no {_listed(suffixes)} member.")


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


def _taken(path: Path, suffixes: Sequence[str], leave_out: Sequence[str]) -> bool:
    name = path.name
    return name.endswith(tuple(suffixes)) and not name.startswith((".", *leave_out))


def _listed(suffixes: Sequence[str]) -> str:
    return " or ".join(suffixes)


def _contents(folder: Path) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    if not names:
        return "it is empty"
    return f"it holds {', '.join(names[:8])}" + (", ..." if len(names) > 8 else "")
