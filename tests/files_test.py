"""Folders appear whole or not at all, and damage to them is found."""

import json
import os
import subprocess
import sys

import pytest

from skipjax import files
from skipjax.errors import BusyError, DataError, OutputError


def test_a_folder_appears_with_its_manifest(tmp_path):
    facts = {}
    with files.new_folder(tmp_path / "deep" / "made", facts=facts) as folder:
        (folder / "a.bin").write_bytes(b"abc")
        (folder / "sub").mkdir()
        (folder / "sub" / "b.bin").write_bytes(b"")
        assert not (tmp_path / "deep" / "made").exists()
        facts["known"] = "late"
    manifest = files.read_manifest(tmp_path / "deep" / "made")
    assert manifest["facts"] == {"known": "late"}
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == {
        "a.bin": 3,
        "sub/b.bin": 0,
    }


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing_not_even_parents(tmp_path, error):
    def fail():
        with files.new_folder(tmp_path / "deep" / "er" / "made") as folder:
            (folder / "a.bin").write_bytes(b"abc")
            raise error

    with pytest.raises(error):
        fail()
    assert os.listdir(tmp_path) == []


def test_parents_that_were_there_stay(tmp_path):
    (tmp_path / "deep").mkdir()
    with pytest.raises(ValueError), files.new_folder(tmp_path / "deep" / "er" / "made"):  # noqa: PT011
        raise ValueError
    assert os.listdir(tmp_path) == ["deep"]


def test_what_is_there_is_not_replaced(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "precious").touch()
    with pytest.raises(OutputError, match="exists already"), files.new_folder(tmp_path / "made"):
        raise AssertionError("not reached")
    assert os.listdir(tmp_path / "made") == ["precious"]
    with pytest.raises(OutputError), files.new_folder(tmp_path / "made" / "precious" / "x"):
        raise AssertionError("not reached")


def test_the_second_of_two_that_make_the_same_is_told(tmp_path):
    def make(what, then):
        with files.new_folder(tmp_path / "made") as folder:
            (folder / "a").write_text(what)
            then()

    with pytest.raises(OutputError, match="cannot be created"):
        make("second", lambda: make("first", lambda: None))
    assert (tmp_path / "made" / "a").read_text() == "first"
    assert os.listdir(tmp_path) == ["made"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "a.bin").write_bytes(b"abd"), "differs from its manifest"),
        (lambda f: (f / "a.bin").write_bytes(b"ab"), "has 2 bytes where its manifest says 3"),
        (lambda f: (f / "a.bin").unlink(), "is missing"),
        (lambda f: (f / files.MANIFEST).unlink(), "has no manifest.json"),
        (lambda f: (f / files.MANIFEST).write_text("{"), "cannot be read"),
        (lambda f: (f / files.MANIFEST).write_text("[]"), "cannot be read"),
        (lambda f: edit(f / files.MANIFEST, '"size": 3', '"size": 2'), "checksum does not match"),
        (lambda f: edit(f / files.MANIFEST, "1", "2"), "checksum does not match|cannot be read"),
    ],
)
def test_damage_is_found(tmp_path, damage, message):
    with files.new_folder(tmp_path / "made") as folder:
        (folder / "a.bin").write_bytes(b"abc")
    damage(tmp_path / "made")
    with pytest.raises(DataError, match=message):
        files.read_manifest(tmp_path / "made")


def edit(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


def test_each_flipped_bit_of_a_manifest_is_found(tmp_path):
    with files.new_folder(tmp_path / "made", rate=1e-17, name="é") as folder:
        (folder / "a").write_text("b")
    path = tmp_path / "made" / files.MANIFEST
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(DataError):
                files.read_manifest(tmp_path / "made")
    path.write_bytes(content)
    assert files.read_manifest(tmp_path / "made")["rate"] == 1e-17


def test_leftovers_of_a_killed_process_are_removed_by_the_next(tmp_path):
    program = """
import os, signal, sys
from skipjax import files
with files.new_folder(sys.argv[1] + "/made") as folder, files.new_file(sys.argv[1] + "/a") as file:
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)])
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / ".made-not.tmp-x").touch()  # another's
    with files.new_folder(tmp_path / "made") as ours:
        with pytest.raises(RuntimeError), files.new_folder(tmp_path / "made"):  # noqa: PT012
            assert len(os.listdir(tmp_path)) == 4  # that of one at work is left alone
            raise RuntimeError
        assert ours.is_dir()
    with files.new_file(tmp_path / "a"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".made-not.tmp-x", "a", "made"]


def test_a_temporary_folder_is_gone_at_the_end(tmp_path):
    (tmp_path / ".logs.tmp-killed").mkdir()
    with pytest.raises(ValueError, match="done"), files.temporary_folder(tmp_path / "logs") as ours:  # noqa: PT012
        (ours / "file").touch()
        with files.temporary_folder(tmp_path / "logs") as other:
            assert set(tmp_path.iterdir()) == {ours, other}  # that of one at work is left alone
        raise ValueError("done")
    assert os.listdir(tmp_path) == []
    with (
        pytest.raises(OutputError, match="/no: cannot be written: No such file"),
        files.temporary_folder(tmp_path / "no" / "logs"),
    ):
        pass


def test_a_removed_folder_is_gone(tmp_path):
    (tmp_path / "gone" / "deep").mkdir(parents=True)
    files.remove_folder(tmp_path / "gone")
    files.remove_folder(tmp_path / "gone")
    assert os.listdir(tmp_path) == []


def test_a_lock_is_held_by_one(tmp_path):
    with (
        files.lock(tmp_path / "lock"),
        pytest.raises(BusyError, match="in use"),
        files.lock(tmp_path / "lock"),
    ):
        raise AssertionError("not reached")
    with files.lock(tmp_path / "lock"):
        pass


def test_a_file_is_replaced_whole(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    with pytest.raises(OutputError, match="cannot be written"):
        files.write_atomically(tmp_path / "no" / "a.json", "")
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")

    def fail():
        with files.new_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"before"
    with files.new_file(path) as temporary:
        temporary.write_bytes(b"after")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["a.bin"]
    with pytest.raises(OutputError, match="cannot be written"), files.new_file(path / "no"):
        pass
