"""Files that mean harm: nothing runs, nothing outside is read or written, memory stays bounded."""

import ast
import contextlib
import dataclasses
import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_input_test import MSSD, TABLE, arguments, halves, put

import skipjax
from skipjax import files
from skipjax.cli.main import main
from skipjax.data import layout
from skipjax.data.inputs import members
from skipjax.data.sessions import Sessions
from skipjax.errors import DataError

MOST_BYTES = 400 << 20
PIECES = 40  # of 16 MB
ZEROS = gzip.compress(bytes(16 << 20))


@pytest.mark.parametrize("name", ["../../outside.csv", "/outside.csv", "a/../../../outside.csv"])
def test_members_are_read_wherever_their_names_lead_but_never_unpacked(tmp_path, name):
    path = tmp_path / "deep" / "log.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        add(archive, name, MSSD.csv())
    assert main(arguments(MSSD, path, tmp_path / "out")) == 0
    assert Sessions.open(tmp_path / "out").num_events == 20
    assert everything_below(tmp_path, but="out") == {"deep", "deep/log.tar"}
    assert not Path("/outside.csv").exists()


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
    ids=["symbolic link", "hard link", "character device", "block device", "pipe"],
)
def test_links_and_devices_are_neither_followed_nor_made(tmp_path, kind):
    (tmp_path / "secret.csv").write_bytes(halves(MSSD)[1])
    path = tmp_path / "log.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "log_0.csv", halves(MSSD)[0])
        for target in (str(tmp_path / "secret.csv"), "../secret.csv", "secret.csv"):
            info = tarfile.TarInfo(f"log_{len(target)}.csv")
            info.type, info.linkname = kind, target
            archive.addfile(info)
    assert main(arguments(MSSD, path, tmp_path / "out")) == 0
    assert set(Sessions.open(tmp_path / "out").session_ids.to_pylist()) == {"a", "b"}
    assert everything_below(tmp_path, but="out") == {"log.tar", "secret.csv"}


class Loaded:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


def npy(trap):
    file = io.BytesIO()
    np.save(file, np.array([trap], object), allow_pickle=True)
    return file.getvalue()


def npz(trap):
    file = io.BytesIO()
    np.savez(file, session_id=np.array([trap], object))
    return file.getvalue()


@pytest.mark.parametrize("make", [npy, npz, pickle.dumps], ids=["npy", "npz", "pickle"])
def test_pickles_are_refused_unread(tmp_path, capsys, make):
    fired = tmp_path / "fired"
    data = make(Loaded(fired))
    names = ("log.csv", "log.npy", "log.npz", "log.tsv", "log.parquet", "log.tar", "log.csv.gz")
    for name in names:
        put(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
        for log in (MSSD, TABLE):
            assert main(arguments(log, tmp_path / name, tmp_path / "out")) == 65
            assert capsys.readouterr().err.count("\n") == 1
    for name in layout.CONTENT:
        folder = tmp_path / name
        with prepared_again(good(tmp_path / f"good-{name}"), folder) as work:
            put(work / name, data)
        with pytest.raises(DataError, match="cannot be read"):
            Sessions.open(folder)
    assert not fired.exists()
    if make is pickle.dumps:  # the control: it would have
        pickle.loads(data)
    elif make is npy:
        np.load(io.BytesIO(data), allow_pickle=True)
    else:
        with np.load(io.BytesIO(data), allow_pickle=True) as loaded:
            loaded["session_id"]
    assert fired.exists()


def bomb_of_zeros(folder):
    return MSSD, put(folder / "log.csv.gz", ZEROS * PIECES)


def bomb_without_line_break(folder):
    header = gzip.compress(MSSD.csv() + b"b,")
    return MSSD, put(folder / "log.csv.gz", header + gzip.compress(b"x" * (16 << 20)) * PIECES)


def bomb_of_one_quote(folder):
    lines = gzip.compress(b"x,\n" * (4 << 20))
    return MSSD, put(folder / "log.csv.gz", gzip.compress(MSSD.csv() + b'"') + lines * PIECES)


def endless_header(kind):
    """A member whose name, or what is noted beside it, goes on for 640 MB."""

    def make(folder):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, PIECES * 16 << 20
        return MSSD, put(folder / "log.tar.gz", gzip.compress(info.tobuf()) + ZEROS * PIECES)

    return make


def chain_of_headers(folder):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 512
    record = b"10 path=x\n" + bytes(502)
    return MSSD, put(folder / "log.tar", (info.tobuf() + record) * 5000)


def claimed_size(size, name, kind=tarfile.REGTYPE):
    def make(folder):
        info = tarfile.TarInfo(name)
        info.size, info.type = size, kind
        end = MSSD.csv().ljust(4096, b"\0") + bytes(1024)
        return MSSD, put(folder / "log.tar", info.tobuf(tarfile.GNU_FORMAT) + end)

    return make


def one_long_text(column):
    """Small on disk, 2 TB if every row had a text of its own; the first has one that is good."""

    def make(folder):
        rows = 200_000
        user, item, when = np.arange(rows) // 10, np.arange(rows) % 99, np.arange(rows)
        columns = {
            "user": pa.array(user).cast(pa.string()),
            "item": pa.array(item).cast(pa.string()),
            "when": pa.array(when),
            "hated": pa.array(["1"] * rows),
            "place": pa.array(["home"] * rows),
        }
        codes, texts = np.ones(rows, np.int32), ["1", "x" * (10 << 20)]
        codes[0] = 0
        columns[column] = pa.DictionaryArray.from_arrays(codes, texts)
        # Without the schema, a reader is not told to keep it a dictionary.
        pq.write_table(pa.table(columns), folder / "log.parquet", store_schema=False)
        return TABLE, folder / "log.parquet"

    return make


def claimed_footer(folder):
    pq.write_table(pa.table({"user": ["a"]}), folder / "log.parquet")
    data = (folder / "log.parquet").read_bytes()
    return TABLE, put(folder / "log.parquet", data[:-8] + b"\xff\xff\xff\xff" + data[-4:])


def device(folder):
    (folder / "log.csv").symlink_to("/dev/zero")
    return MSSD, folder


BOMBS = {
    "gzip of 640 MB of zeros": bomb_of_zeros,
    "a line of 640 MB": bomb_without_line_break,
    "a quote of 480 MB": bomb_of_one_quote,
    "a name of 640 MB in a tar": endless_header(tarfile.GNUTYPE_LONGNAME),
    "a link's name of 640 MB in a tar": endless_header(tarfile.GNUTYPE_LONGLINK),
    "notes of 640 MB in a tar": endless_header(tarfile.XHDTYPE),
    "notes of 640 MB for all members of a tar": endless_header(tarfile.XGLTYPE),
    "5,000 notes on one member": chain_of_headers,
    "a member of 8 EB": claimed_size(2**63 - 1024, "log.csv"),
    "a member of 8 EB to skip": claimed_size(2**63 - 1024, "readme.txt"),
    "a member of 8 EB of an unknown kind": claimed_size(2**63 - 1024, "log.csv", b"?"),
    "one long id": one_long_text("item"),
    "one long time": one_long_text("when"),
    "one long flag": one_long_text("hated"),
    "a Parquet footer of 4 GB": claimed_footer,
    "a device": device,
}
# Which may be accepted, if the memory is there: that column is not limited.
LONG_CONTEXT = one_long_text("place")


def test_memory_is_bounded_whatever_files_claim(tmp_path):
    """All in one process of 8 GB at most, whose peak tells of each."""
    runs = []
    for number, make in enumerate([*BOMBS.values(), LONG_CONTEXT]):
        folder = tmp_path / str(number)
        folder.mkdir()
        log, path = make(folder)
        runs.append(arguments(log, path, folder / "out" / "sessions"))
    code = (
        "import json, resource, sys, time\n"
        "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
        "from skipjax.cli.main import main\n"
        "for arguments in json.load(sys.stdin):\n"
        "    start = time.monotonic()\n"
        "    code = main(arguments)\n"
        "    status = open('/proc/self/status').read()  # getrusage would count the parent's, too\n"
        "    peak = int(status.split('VmHWM:')[1].split()[0]) << 10\n"
        "    print('OUTCOME', json.dumps([code, peak, time.monotonic() - start]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(runs),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [x for x in done.stdout.splitlines() if x.startswith("OUTCOME ")]
    outcomes = [json.loads(line.removeprefix("OUTCOME ")) for line in lines]
    assert len(outcomes) == len(runs)
    errors = iter(done.stderr.splitlines())
    for number, (name, (exit_code, peak, seconds)) in enumerate(
        zip([*BOMBS, "one long context"], outcomes, strict=True)
    ):
        assert peak < MOST_BYTES, f"{name}: {peak >> 20} MB"
        assert seconds < 60, name
        if name in BOMBS:
            assert exit_code == 65, name
            error = next(errors)
            assert error.startswith("skipjax: "), name
            assert len(error) < 1000, name
        assert (tmp_path / str(number) / "out").exists() == (exit_code == 0)
    assert next(errors, None) is None


def test_what_a_tar_notes_for_all_members_is_not_kept(tmp_path):
    packed = b""
    for number in range(40):
        info = tarfile.TarInfo.create_pax_global_header({str(number): "x" * (1 << 20)})
        packed += gzip.compress(info + tarfile.TarInfo(f"{number}.txt").tobuf(), 1)
    put(tmp_path / "log.tar.gz", packed)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"has no \.csv member"):
            next(members(tmp_path / "log.tar.gz", (".csv",)))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@dataclasses.dataclass(frozen=True)
class Lie:
    """Replaces columns of one file of a prepared folder."""

    name: str
    change: dict[str, pa.Array]


LIES = {
    "a track that is not there": Lie(
        layout.EVENTS, {"track": pa.array([20, *range(19)], pa.int32())}
    ),
    "a track below 0": Lie(layout.EVENTS, {"track": pa.array([-1, *range(19)], pa.int32())}),
    "tracks of 64 bits": Lie(layout.EVENTS, {"track": pa.array(range(20), pa.int64())}),
    "no track": Lie(layout.EVENTS, {"track": pa.array([None, *range(19)], pa.int32())}),
    "a level of 4": Lie(layout.EVENTS, {"level": pa.array([4] * 20, pa.int8())}),
    "lengths of too many events": Lie(
        layout.SESSIONS, {"length": pa.array([5, 5, 5, 6], pa.int32())}
    ),
    "lengths that add up by wrapping": Lie(
        layout.SESSIONS, {"length": pa.array([2**31 - 1, 2**31 - 1, 10, 12], pa.int32())}
    ),
    "lengths below 0": Lie(layout.SESSIONS, {"length": pa.array([30, -10, 5, -5], pa.int32())}),
    "too few contexts": Lie(layout.CONTEXT, {"x": pa.array(range(19))}),
    "a context that is not there": Lie(
        layout.CONTEXT,
        {"x": pa.DictionaryArray.from_arrays(pa.array([7] * 20), pa.array(["a"]), safe=False)},
    ),
    "ids that overlap": Lie(
        layout.TRACKS,
        {
            "track_id": pa.LargeStringArray.from_buffers(
                20,
                pa.py_buffer(np.array([0, 20, *range(19)]).astype(np.int64)),
                pa.py_buffer(b"x" * 20),
            )
        },
    ),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_prepared_files_that_do_not_fit_together_are_refused(tmp_path, lie):
    """Though their manifest is right: whoever made them made it, too."""
    table = pa.ipc.open_file(good(tmp_path / "good") / lie.name).read_all()
    columns = dict(zip(table.column_names, table.columns, strict=True))
    columns = lie.change if lie.name == layout.CONTEXT else columns | lie.change
    with prepared_again(tmp_path / "good", tmp_path / "bad") as work:
        changed = pa.table(columns)
        layout.write_batches(work / lie.name, changed.schema, changed.to_batches())
    with pytest.raises(DataError, match=r"bad (cannot be read \(|has files that do not fit)"):
        Sessions.open(tmp_path / "bad")
    with prepared_again(tmp_path / "good", tmp_path / "same"):  # the control
        pass
    assert Sessions.open(tmp_path / "same").num_events == 20


def test_prepared_files_that_claim_terabytes_are_refused(tmp_path):
    good(tmp_path / "good")
    refused = 0
    for name in layout.CONTENT:
        data = (tmp_path / "good" / name).read_bytes()
        for at in range(0, len(data) - 8, 8):
            if not 0 < int.from_bytes(data[at : at + 8], "little") < 1 << 20:
                continue  # neither a length nor an offset
            folder = tmp_path / f"{name}-{at}"
            with prepared_again(tmp_path / "good", folder) as work:
                put(work / name, data[:at] + (1 << 42).to_bytes(8, "little") + data[at + 8 :])
            with contextlib.suppress(DataError):
                sessions = Sessions.open(folder)  # an id may have changed
                assert sessions.num_events == 20
                continue
            refused += 1
    assert refused > 40


def good(folder):
    """The good log, prepared."""
    put(folder.with_suffix(".csv"), MSSD.csv())
    assert main(arguments(MSSD, folder.with_suffix(".csv"), folder)) == 0
    return folder


@contextlib.contextmanager
def prepared_again(folder, out) -> Iterator[Path]:
    """A copy of a prepared folder, with a manifest of what the block makes of it."""
    manifest = files.read_manifest(folder)
    entries = {name: manifest[name] for name in ("format", "preparation")}
    with files.new_folder(out, **entries) as work:
        for name in layout.CONTENT:
            shutil.copy(folder / name, work / name)
        yield work


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def everything_below(folder, but):
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in paths if path.parts[0] != but}


MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "runpy", "imp"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {("os", "system"), ("os", "popen"), ("pd", "read_pickle"), ("torch", "load")}
ALLOWED = {
    ("cli/main.py", "import_module"),  # of its own table of commands
    ("cli/config_flags.py", "runpy"),  # --config files are Python, as README says
}


def findings(source: str) -> Iterator[str]:
    """What in a module could run what a file says."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from MODULES & {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            yield from MODULES & {(node.module or "").split(".")[0]}
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.id
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else None
            name = function.id if isinstance(function, ast.Name) else name
            of = getattr(getattr(function, "value", None), "id", "")
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            if (of, name) in CALLS:
                yield name
            if name == "import_module" and not isinstance(node.args[0], ast.Constant):
                yield name
            if name == "load" and of in ("np", "numpy") and not says(keywords, allow_pickle=False):
                yield "np.load"
            if "shell" in keywords and not says(keywords, shell=False):
                yield "shell"


def says(keywords, **wanted):
    ((name, value),) = wanted.items()
    return isinstance(keywords.get(name), ast.Constant) and keywords[name].value is value


def test_nothing_in_the_package_runs_what_a_file_says():
    package = Path(skipjax.__file__).parent
    found = {
        (path.relative_to(package).as_posix(), what)
        for path in package.rglob("*.py")
        for what in findings(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", {"pickle"}),
        ("import os, marshal as m", {"marshal"}),
        ("from yaml.loader import Loader", {"yaml"}),
        ("f = eval", {"eval"}),
        ("x = builtins['a'](exec)", {"exec"}),
        ("importlib.import_module(name)", {"import_module"}),
        ("import_module(f'{a}.b')", {"import_module"}),
        ("importlib.import_module('configs.tiny')", set()),
        ("np.load(file)", {"np.load"}),
        ("numpy.load(file, allow_pickle=True)", {"np.load"}),
        ("np.load(file, allow_pickle=False)", set()),
        ("subprocess.run(x, shell=True)", {"shell"}),
        ("os.system(x)", {"system"}),
        ("json.load(file); re.compile('x'); self.eval = 1", set()),
    ],
)
def test_what_the_search_finds(source, what):
    assert set(findings(source)) == what
