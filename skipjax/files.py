"""Folders and files that appear whole or not at all. Standard library only."""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skipjax.errors import BusyError, DataError, OutputError

MANIFEST = "manifest.json"
_SEAL, _NO_SEAL = "sha256 of this file with 64 zeros here", "0" * 64
_TEMPORARY = ".tmp-"


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
        with _temporary(path) as temporary:
            yield temporary
            _sync(temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            _sync(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}.") from error


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
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_parents, path, made)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(_temporary(path, folder=True))
        except OSError as error:
            raise OutputError(f"{path}: cannot be created: {error.strerror}.") from error
        yield temporary
        try:
            os.chmod(temporary, 0o755)
            _write_manifest(temporary, manifest)
            os.rename(temporary, path)
            _sync(path.parent)
        except OSError as error:
            raise OutputError(f"{path}: cannot be created: {error.strerror}.") from error


@contextlib.contextmanager
def temporary_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a folder beside `path` that is gone when the block ends.

    Those that killed processes left there are removed, too.

    Raises:
      OutputError: it cannot be made.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(_temporary(path, folder=True))
        except OSError as error:
            raise OutputError(f"{path.parent}: cannot be written: {error.strerror}.") from error
        yield temporary


def remove_folder(path: str | os.PathLike) -> None:
    """Removes a folder so that, killed at any moment, it is there whole or not at all.

    What cannot be removed is left under a name that `remove_leftovers` knows.
    """
    path = Path(path)
    doomed = path.with_name(f".{path.name}{_TEMPORARY}removed")
    with contextlib.suppress(OSError):
        os.rename(path, doomed)
        _remove(doomed)


def remove_leftovers(folder: str | os.PathLike, name: str = "*") -> None:
    """Removes what processes that were killed while they made `folder`/`name` left there."""
    for leftover in Path(folder).glob(f".{name}{_TEMPORARY}*"):
        with contextlib.suppress(OSError):  # gone by now, or still being written
            held = _locked(leftover)
            try:
                _remove(leftover)
            finally:
                os.close(held)


def read_manifest(folder: str | os.PathLike, *, check_files: bool = True) -> dict[str, Any]:
    """The manifest of `folder`, after checking the size and sha256 of every file it lists.

    Args:
      folder: what `new_folder` made.
      check_files: whether to check more than the manifest itself, by its own sha256.

    Raises:
      DataError: there is no manifest, or a file is missing or differs from it.
    """
    folder = Path(folder)
    try:
        manifest = _unsealed((folder / MANIFEST).read_text(encoding="utf-8"))
        entries = manifest["files"]
    except FileNotFoundError:
        raise DataError(f"{folder} has no {MANIFEST}: not a folder that skipjax wrote.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST} cannot be read ({error}): damaged.") from error
    for name, entry in entries.items() if check_files else ():
        file = folder / name
        if not file.is_file():
            raise DataError(f"{file} is missing.")
        size = file.stat().st_size
        if size != entry["size"]:
            raise DataError(
                f"{file} has {size} bytes where its manifest says {entry['size']}: damaged."
            )
        try:
            found = sha256(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}.") from error
        if found != entry["sha256"]:
            raise DataError(f"{file} differs from its manifest: damaged.")
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
    names = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    files = {}
    for name in names:
        _sync(folder / name)
        if (folder / name).is_file():
            files[name.as_posix()] = {
                "size": (folder / name).stat().st_size,
                "sha256": sha256(folder / name),
            }
    (folder / MANIFEST).write_text(_sealed({**extra, "files": files}), encoding="utf-8")
    _sync(folder / MANIFEST)
    _sync(folder)


def _sealed(value: dict[str, Any]) -> str:
    """JSON that holds its own sha256, taken with zeros in its place."""
    text = json.dumps({_SEAL: _NO_SEAL, **value}, indent=2, allow_nan=False) + "\n"
    return text.replace(_NO_SEAL, hashlib.sha256(text.encode()).hexdigest(), 1)


def _unsealed(text: str) -> dict[str, Any]:
    value = json.loads(text)
    del value[_SEAL]
    if _sealed(value) != text:
        raise ValueError("its checksum does not match")
    return value


@contextlib.contextmanager
def _temporary(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A new file or folder beside `path`, gone when the block ends.

    Meanwhile a lock on it is held, by which `remove_leftovers` tells it from those of processes
    that were killed. A signal at any moment finds it in the hands of this.
    """
    remove_leftovers(path.parent, glob.escape(path.name))
    temporary, held = None, None
    try:
        while held is None:
            temporary = path.parent / f".{path.name}{_TEMPORARY}{secrets.token_hex(8)}"
            if folder:
                temporary.mkdir(0o700)
            else:
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            # Another process may take it for a leftover before it is locked.
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                held = _locked(temporary)
        yield temporary
    finally:
        if temporary is not None:
            _remove(temporary)
        if held is not None:
            os.close(held)


def _locked(path: Path) -> int:
    """A descriptor that holds an exclusive lock on a file or folder.

    Raises:
      BlockingIOError: another process holds it.
      FileNotFoundError: it is not there, or has been removed meanwhile.
    """
    held = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(path)
    except OSError:
        os.close(held)
        raise
    return held


def _remove(path: Path) -> None:
    """As far as that is possible; whoever still writes into a folder gets a second to end."""
    for wait in (0, 0.1, 0.3, 0.6):
        time.sleep(wait)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        if not path.exists():
            break


def _remove_parents(path: Path, made: list[Path]) -> None:
    """Removes the folders above `path` that were made for it, if it is not there."""
    if not path.exists():
        with contextlib.suppress(OSError):  # not empty: somebody else's by now
            for parent in made:
                parent.rmdir()


def _sync(path: Path) -> None:
    """Returns when a file's bytes, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
