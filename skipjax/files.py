"""Folders and files that appear whole or not at all. Standard library only."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skipjax.errors import BusyError, DataError, OutputError

MANIFEST = "manifest.json"


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """Replaces the file at `path` by `text`: a reader sees the old text or the new, never a part.

    Raises:
      OutputError: the folder cannot be written to.
    """
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary file that replaces `path` when the block ends without an error.

    Raises:
      OutputError: the folder cannot be written to.
    """
    path = Path(path)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}.") from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """`write_atomically` of `value` as indented JSON; NaN and infinity are refused."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def new_folder(path: str | os.PathLike, **manifest: Any) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends without an error.

    A manifest with the size and sha256 of every file, and the given extra entries, is written
    last; the caller may add entries to it by mutating the values passed in. After an error
    nothing is left behind.

    Raises:
      OutputError: `path` exists already and is not an empty folder, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise OutputError(f"{path} exists already; remove it or choose another place.")
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.tmp-"))
    except OSError as error:
        raise OutputError(f"{path}: cannot be created: {error.strerror}.") from error
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        _write_manifest(temporary, manifest)
        try:
            os.rename(temporary, path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be created: {error.strerror}.") from error
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not path.exists():
            with contextlib.suppress(OSError):  # not empty: somebody else's by now
                for parent in made:
                    parent.rmdir()


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """The manifest of `folder`, after checking the size and sha256 of every file it lists.

    Raises:
      DataError: there is no manifest, or a file is missing or differs from it.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        entries = manifest["files"]
    except FileNotFoundError:
        raise DataError(f"{folder} has no {MANIFEST}: not a folder that skipjax wrote.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST} cannot be read ({error}); make it again.") from error
    for name, entry in entries.items():
        file = folder / name
        if not file.is_file():
            raise DataError(f"{file} is missing; make {folder} again.")
        size = file.stat().st_size
        if size != entry["size"]:
            raise DataError(
                f"{file} has {size} bytes where its manifest says {entry['size']}: "
                f"damaged; make {folder} again."
            )
        if sha256(file) != entry["sha256"]:
            raise DataError(f"{file} differs from its manifest: damaged; make {folder} again.")
    return manifest


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: str | os.PathLike) -> None:
    """Makes a folder, and those above it, if it is not there.

    Raises:
      OutputError: it cannot be made.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be created: {error.strerror}.") from error


@contextlib.contextmanager
def lock(path: str | os.PathLike) -> Iterator[None]:
    """Holds an exclusive lock on the file `path` while the block runs.

    The operating system releases it with the process, however that ends.

    Raises:
      BusyError: another process holds it.
      OutputError: it cannot be written.
    """
    try:
        file = open(path, "a")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"{Path(path).parent} is in use by another process; wait for it, or choose "
                "another workdir."
            ) from None
        yield


def _write_manifest(folder: Path, extra: dict[str, Any]) -> None:
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    files = {}
    for name in names:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
        files[name.as_posix()] = {
            "size": (folder / name).stat().st_size,
            "sha256": sha256(folder / name),
        }
    write_json(folder / MANIFEST, {**extra, "files": files})


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
