"""Malformed logs: one table of what is accepted, as which sessions, and what is refused, how.

What is refused ends in exit code 65 and one line that names file, row and column, and leaves
nothing behind. With --on_bad_session=drop, what concerns a session costs that session alone.
"""

import bz2
import csv
import dataclasses
import datetime
import gzip
import io
import os
import tarfile
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipjax.cli.main import main
from skipjax.data.sessions import Sessions


@dataclasses.dataclass(frozen=True)
class Log:
    """A good log of sessions a to d, five rows each: b's are rows 7 to 11 of a CSV."""

    kind: str
    rows: tuple[dict[str, str], ...]
    session: str
    options: tuple[str, ...] = ()

    def csv(self, rows=None, columns=None, delimiter=",", end="\n"):
        columns = columns or list(self.rows[0])
        rows = self.rows if rows is None else rows
        lines = [columns, *([row[column] for column in columns] for row in rows)]
        return "".join(delimiter.join(line) + end for line in lines).encode()

    def without(self, sessions):
        return [row for row in self.rows if row[self.session] not in sessions]


MSSD = Log(
    "mssd",
    tuple(
        {
            "session_id": session,
            "session_position": str(position),
            "session_length": "5",
            "track_id_clean": f"t_{number}{position}",
            "skip_1": "false",
            "skip_2": "true" if position == 2 else "false",
            "skip_3": "true" if position == 2 else "false",
            "not_skipped": "false" if position == 2 else "true",
            "context_type": "radio",
            "hist_user_behavior_is_shuffle": "false",
            "hour_of_day": "7",
            "date": "2018-07-15",
            "premium": "true",
            "hist_user_behavior_reason_end": "trackdone",  # is not read
        }
        for number, session in enumerate("abcd")
        for position in range(1, 6)
    ),
    "session_id",
)


def table_log(when, *options):
    return Log(
        "table",
        tuple(
            {
                "user": user,
                "item": f"i{number}{place}",
                "when": when(place),
                "hated": str(place % 2),
                "place": "home",
                "note": "x",  # is not read
            }
            for number, user in enumerate("abcd")
            for place in range(1, 6)
        ),
        "user",
        (
            "--session_column=user",
            "--track_column=item",
            *(options or ("--time_column=when", "--skip_column=hated")),
            "--context_columns=place",
        ),
    )


TABLE = table_log(lambda place: str(place))
DATES = table_log(lambda place: f"2020-01-0{place}T12:00:00")
LEVELS = table_log(lambda place: str(place), "--position_column=when", "--level_column=hated")
THIRD = 7  # of the rows: b's third, row 9 of a CSV and row 8 of Parquet


@dataclasses.dataclass(frozen=True)
class Accepted:
    """Events there are; `as_plain` if they are exactly those of the good log."""

    events: int = 20
    as_plain: bool = True


@dataclasses.dataclass(frozen=True)
class Refused:
    """What the line must say, its parts divided by `...`.

    With on_bad_session=drop, the sessions in `drops` are left out, and as many rows as `lost`
    cannot be told; if it `drops` None, that ends in the same line.
    """

    says: str
    drops: str | tuple[str, ...] | None = None
    lost: int = 0


def rows(log, change, **how):
    """A CSV of changed rows."""

    def make(folder):
        changed = change([dict(row) for row in log.rows])
        return put(folder / "log.csv", log.csv(changed, **how))

    return log, make


def cell(log, column, value):
    def change(rows):
        rows[THIRD][column] = value
        return rows

    return rows(log, change)


def cells(log, **values):
    def change(rows):
        rows[THIRD] |= values
        return rows

    return rows(log, change)


def column(log, name, value):
    return rows(log, lambda rows: [row | {name: value} for row in rows])


def text(log, change, name="log.csv"):
    """A file of changed bytes."""
    return log, lambda folder: put(folder / name, change(log.csv()))


def parquet(log=TABLE, change=lambda data: data, name="log.parquet", **columns):
    """A Parquet file, its columns replaced by those given, its bytes changed."""

    def make(folder):
        whole = {name: [row[name] for row in log.rows] for name in log.rows[0]}
        table = pa.table(whole | columns)
        pq.write_table(table, folder / name, data_page_size=64, write_page_checksum=True)
        return put(folder / name, change((folder / name).read_bytes()))

    return log, make


def third(good, bad):
    """A column of 20 values, the third of b's being `bad`."""
    return [bad if i == THIRD else good for i in range(20)]


def tar(log, members, name="log.tar", change=lambda data: data):
    pack = gzip.compress if name.endswith("gz") else bytes
    return log, lambda folder: put(folder / name, change(pack(tarred(*members.items()))))


def tarred(*members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def with_holes(name):
    """A tar with a file of a terabyte, of which there are 512 bytes."""
    info = tarfile.TarInfo(name)
    info.size = 512
    info.pax_headers = {
        "GNU.sparse.name": name,
        "GNU.sparse.size": str(1 << 40),
        "GNU.sparse.map": f"0,512,{1 << 40},0",
    }
    return info.tobuf(tarfile.PAX_FORMAT) + MSSD.csv()[:512] + bytes(1024)


def blanked(data, at):
    return data[:at] + bytes(512) + data[at + 512 :]


def files(log, *steps):
    """A folder filled by `steps`, each called with it."""

    def make(folder):
        for step in steps:
            step(folder)
        return folder

    return log, make


def put(path, data):
    path.write_bytes(data)
    return path


def halves(log):
    middle = len(log.rows) // 2
    return log.csv(log.rows[:middle]), log.csv(log.rows[middle:])


def piped(log):
    def make(folder):
        os.mkfifo(folder / "log.csv")
        threading.Thread(target=put, args=(folder / "log.csv", log.csv()), daemon=True).start()
        return folder / "log.csv"

    return log, make


def after_row(row, line):
    return lambda data: b"\n".join([*(lines := data.split(b"\n"))[:row], line, *lines[row:]])


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def wider(row):
    return {"z": "1"} | dict(reversed(row.items())) | {"y": "é"}


NOT_FLAG = "is not true or false"
NOT_ID = "is not an id"
POSITION = "log.csv row 9, column session_position: {!r} is not a whole number from 1 to 1000"
HOUR = "log.csv row 9, column hour_of_day: {!r} is not an hour from 0 to 23"
DATE = "log.csv row 9, column date: {!r} is not a date YYYY-MM-DD or DD/MM/YYYY from 2006 on"
WHEN = "log.csv row 9, column when: {!r} is not an integer;"
HALVES = dict(zip(("log_0.csv", "log_1.csv"), halves(MSSD), strict=True))
FIRST_GZ, SECOND_GZ = (gzip.compress(half) for half in halves(MSSD))
SECOND_MEMBER = gzip.compress(halves(MSSD)[1].split(b"\n", 1)[1])  # goes on with the rows
PACKED = gzip.compress(MSSD.csv())

READ = ("user", "item", "when", "hated", "place")

CASES = {
    # Numbers of MSSD.
    **{
        f"position {value!r}": (
            cell(MSSD, "session_position", value),
            Refused(POSITION.format(value), "b"),
        )
        for value in (
            *("0x3", " 3", "3 ", "+3", "-3", "0", "3.0", "3e0", "1_0", "٣", "", "nan", "1001"),
            *("2147483649", "4294967299", "18446744073709551619", "9" * 30),  # 3, once wrapped
        )
    },
    "position beyond the length": (
        cell(MSSD, "session_position", "6"),
        Refused("row 9, column session_position: '6' is not within the session's length, 5", "b"),
    ),
    "position 03": (cell(MSSD, "session_position", "03"), Accepted()),
    "length ''": (
        cell(MSSD, "session_length", ""),
        Refused("row 9, column session_length: '' is not a whole number", "b"),
    ),
    "length 0x5": (
        cell(MSSD, "session_length", "0x5"),
        Refused("row 9, column session_length: '0x5' is not a whole number", "b"),
    ),
    **{
        f"hour {value!r}": (cell(MSSD, "hour_of_day", value), Refused(HOUR.format(value), "b"))
        for value in ("24", "99", "-1", "7.5", "", "NA", "7h")
    },
    "hour 07": (cell(MSSD, "hour_of_day", "07"), Accepted()),
    **{
        f"date {value!r}": (cell(MSSD, "date", value), Refused(DATE.format(value), "b"))
        for value in (
            *("1999", "1999-07-15", "1970-01-01", "2018-02-30", "2018-7-15", "07/15/2018"),
            *("15.07.2018", "2018-07-15T00:00", "20180715", "", "NaT", "0000-00-00"),
        )
    },
    "dates as spreadsheets write them": (column(MSSD, "date", "15/07/2018"), Accepted()),
    # Flags of MSSD.
    **{
        f"flag {value!r}": (
            cell(MSSD, "premium", value),
            Refused(f"log.csv row 9, column premium: {value!r} {NOT_FLAG}", "b"),
        )
        for value in ("", "NA", "nan", "1", "yes", "t", "tru", " true", "truefalse")
    },
    "skip flag as a number": (
        cell(MSSD, "skip_2", "0"),
        Refused(f"row 9, column skip_2: '0' {NOT_FLAG}", "b"),
    ),
    "skip_1 without skip_2": (
        cells(MSSD, skip_1="true", skip_3="true", not_skipped="false"),
        Refused("row 9, column skip_2: 'false' is not true, though skip_1 is;", "b"),
    ),
    "skip_2 without skip_3": (
        cells(MSSD, skip_2="true", not_skipped="false"),
        Refused("row 9, column skip_3: 'false' is not true, though skip_2 is;", "b"),
    ),
    "skipped and not": (
        cells(MSSD, skip_3="true"),
        Refused("row 9, column not_skipped: 'true' is not false, though skip_3 is true;", "b"),
    ),
    "saved again as True": (text(MSSD, lambda d: d.replace(b"true", b"True")), Accepted()),
    "saved again as TRUE": (text(MSSD, lambda d: d.replace(b"true", b"TRUE")), Accepted()),
    # Ids.
    **{
        f"session id {value!r}": (
            cell(MSSD, "session_id", value),
            Refused(f"log.csv row 9, column session_id: {value!r} {NOT_ID};", "b", lost=1),
        )
        for value in ("", "  ", "NaN", "null", "None", "N/A", "\\N", "b\0")
    },
    **{
        f"track id {value!r}": (
            cell(MSSD, "track_id_clean", value),
            Refused(f"log.csv row 9, column track_id_clean: {value!r} {NOT_ID};", "b"),
        )
        for value in ("", "\t", "nan", "<NA>", "t\0")
    },
    "track id of 1,001 letters": (
        cell(MSSD, "track_id_clean", "x" * 1001),
        Refused("log.csv row 9, column track_id_clean: 'xxxx...x... is not an id", "b"),
    ),
    "track id of 1,000 letters": (
        cell(MSSD, "track_id_clean", "x" * 1000),
        Accepted(as_plain=False),
    ),
    "ids that only look like numbers": (
        rows(
            TABLE,
            lambda r: [x | {"user": {"a": "7", "b": "007"}.get(u := x["user"], u)} for x in r],
        ),
        Accepted(as_plain=False),
    ),
    # Sessions of MSSD.
    "a row of another session": (
        cell(MSSD, "session_id", "zz"),
        Refused("session ... has ... of its 5 positions; ... is missing", ("b", "zz")),
    ),
    "a position twice": (
        cell(MSSD, "session_position", "2"),
        Refused(
            "session 'b' has position 2 twice: in ...log.csv row 8 and in ...log.csv row 9", "b"
        ),
    ),
    "a row twice": (
        rows(MSSD, lambda rows: [*rows, rows[THIRD]]),
        Refused("session 'b' has position 3 twice: in ...csv row 9 and in ...csv row 22; was", "b"),
    ),
    "a row missing": (
        rows(MSSD, lambda rows: rows[:THIRD] + rows[THIRD + 1 :]),
        Refused("session 'b' has 4 of its 5 positions; 3 is missing", "b"),
    ),
    "rows missing at the end": (
        rows(MSSD, lambda rows: rows[:-2]),
        Refused("session 'd' has 3 of its 5 positions; 4 is missing, ...log.csv row 19; is a", "d"),
    ),
    "lengths that differ": (
        cell(MSSD, "session_length", "6"),
        Refused("session 'b' is 5 tracks long in ...csv row 7, but 6 in ...csv row 9", "b"),
    ),
    "rows in reverse": (rows(MSSD, lambda rows: rows[::-1]), Accepted()),
    "sessions in turn": (
        rows(MSSD, lambda rows: sorted(rows, key=lambda row: row["session_position"])),
        Accepted(),
    ),
    "short sessions": (
        rows(TABLE, lambda rows: rows[::2]),
        Refused("no session has 4 or more events (4 were shorter); lower min_length."),
    ),
    "all sessions bad": (
        column(MSSD, "premium", "1"),
        Refused(f"log.csv row 2, column premium: '1' {NOT_FLAG}", "abcd"),
    ),
    # CSV as it comes.
    "BOM": (text(MSSD, lambda data: b"\xef\xbb\xbf" + data), Accepted()),
    "CRLF": (rows(MSSD, lambda rows: rows, end="\r\n"), Accepted()),
    "BOM, CRLF, TRUE": (
        text(
            MSSD,
            lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n").replace(b"true", b"TRUE"),
        ),
        Accepted(),
    ),
    "other columns, in another order": (
        rows(MSSD, lambda r: [*map(wider, r)], columns=[*wider(MSSD.rows[0])]),
        Accepted(),
    ),
    "blank line at the end": (text(MSSD, lambda data: data + b"\n"), Accepted()),
    "blank lines at the end": (text(MSSD, lambda data: data + b"\r\n\n\n"), Accepted()),
    "quoted": (
        text(MSSD, lambda d: b'"' + d.replace(b",", b'","').replace(b"\n", b'"\n"')[:-1]),
        Accepted(),
    ),
    "quoted comma and quotes": (
        cell(MSSD, "hist_user_behavior_reason_end", '"back, ""as"" it were"'),
        Accepted(),
    ),
    "no line break at the end": (text(MSSD, bytes.rstrip), Accepted()),
    "spaces around names": (text(MSSD, lambda d: d.replace(b",", b" , ", 12)), Accepted()),
    "an unread column twice": (
        text(MSSD, lambda d: b"\n".join(line + b",x,y" for line in d.split(b"\n")[:-1])),
        Accepted(),
    ),
    "Latin-1 in a column that is not read": (
        text(MSSD, lambda data: data.replace(b"trackdone", b"\xe9t\xe9")),
        Accepted(),
    ),
    "100 KB in a column that is not read": (
        cell(MSSD, "hist_user_behavior_reason_end", "x" * 100_000),
        Accepted(),
    ),
    "context '' and NA": (
        cell(MSSD, "context_type", "NA"),
        Accepted(as_plain=False),
    ),
    "a pipe": (piped(MSSD), Accepted()),
    # CSV that is none.
    "empty": (text(MSSD, lambda _: b""), Refused("log.csv is empty.")),
    "blank": (text(MSSD, lambda _: b"\n\n"), Refused("log.csv is empty.")),
    "header only": (rows(MSSD, lambda _: []), Refused("log.csv has a header but no rows.")),
    "header only, no line break": (
        text(MSSD, lambda data: data.split(b"\n")[0]),
        Refused("log.csv has a header but no rows."),
    ),
    "no header": (
        text(MSSD, lambda data: data.split(b"\n", 1)[1]),
        Refused("log.csv has no column 'session_id'; its columns are a, 1, 5, t_01"),
    ),
    "missing column": (
        text(MSSD, lambda data: data.replace(b"skip_2", b"skip2", 1)),
        Refused("has no column 'skip_2'; its columns are session_id, ... Did you mean 'skip2'?"),
    ),
    "column twice": (
        text(MSSD, lambda data: data.replace(b"hist_user_behavior_reason_end", b"skip_1", 1)),
        Refused("log.csv has 2 columns named 'skip_1'."),
    ),
    "semicolons": (
        rows(MSSD, lambda rows: rows, delimiter=";"),
        Refused("log.csv has semicolons between its columns; save it with commas there."),
    ),
    "no delimiter that is known": (
        rows(MSSD, lambda rows: rows, delimiter=":"),
        Refused("no column 'session_id'; its columns are session_id:session_position:"),
    ),
    "tabs in a .csv": (
        rows(TABLE, lambda rows: rows, delimiter="\t"),
        Refused(
            "log.csv has tabs between its columns; save it with commas there, or give it a name "
            "that ends in .tsv."
        ),
    ),
    "commas in a .tsv": (
        text(TABLE, lambda data: data, "log.tsv"),
        Refused("log.tsv has commas between its columns; save it with tabs there, or give it a"),
    ),
    "narrow row": (
        text(MSSD, after_row(4, b"a,b")),
        Refused("log.csv row 5 has 2 columns where the header has 14: 'a,b'; correct or remove"),
    ),
    "row of a space": (text(MSSD, after_row(4, b" ")), Refused("log.csv row 5 has 1 columns")),
    "blank line in between": (
        text(MSSD, after_row(4, b"")),
        Refused("log.csv row 5, column session_length: '' is not a whole number", "", lost=1),
    ),
    "wide row": (
        text(MSSD, lambda data: data.replace(b"trackdone", b"track,done", 1)),
        Refused("log.csv row 2 has 15 columns where the header has 14: 'a,1,5,t_01,"),
    ),
    "cut within a row": (
        text(MSSD, lambda data: data[:-40]),
        Refused("log.csv row 21 has 9 columns where the header has 14: 'd,5,5,t_35"),
    ),
    "cut within a last value that is not read": (
        text(MSSD, lambda data: data[:-4]),
        Accepted(),
    ),
    "cut within a last value that is read": (
        (TABLE, lambda f: put(f / "log.csv", TABLE.csv(columns=["note", *READ])[:-2])),
        Refused(
            "log.csv row 21, column place: 'hom' may be cut short, since no line break follows"
        ),
    ),
    "quote that is not closed": (
        cell(MSSD, "track_id_clean", '"t_13'),
        Refused("log.csv...row"),
    ),
    "quote not closed in the last row": (
        text(MSSD, lambda data: data[: -len("trackdone\n")] + b'"trackdone\n'),
        Refused("log.csv row 21 has a quote that is not closed."),
    ),
    "line break in quotes": (
        text(MSSD, lambda data: data.replace(b"radio", b'"ra\ndio"')),
        Refused("log.csv...row"),
    ),
    "lines end in CR": (
        rows(MSSD, lambda rows: rows, end="\r"),
        Refused("log.csv has no line break in its first"),
    ),
    "some lines end in CR": (
        text(MSSD, lambda data: data.replace(b"trackdone\n", b"trackdone\r", 1)),
        Refused("log.csv...row"),
    ),
    "a line of 5 MB": (
        cell(MSSD, "hist_user_behavior_reason_end", "x" * 5_000_000),
        Refused("log.csv row 9 has over 1 MB; is a quote missing?"),
    ),
    "no line break in 3 MB": (
        text(MSSD, lambda _: b"x" * 3_000_000),
        Refused("log.csv has no line break in its first 1,048,576 bytes"),
    ),
    "a header of 200 KB": (
        text(MSSD, lambda data: b"x" * 200_000 + data),
        Refused("log.csv has no column 'session_id'"),
    ),
    "Latin-1": (
        text(MSSD, lambda data: data.replace(b"t_13", b"t\xe9")),
        Refused("log.csv row 9 is not UTF-8 text"),
    ),
    "Latin-1 in the header": (
        text(
            MSSD, lambda data: data.replace(b"trackdone", b"\xe9").replace(b"reason_end", b"\xe9")
        ),
        Refused("log.csv is not UTF-8 text; save it as CSV in UTF-8."),
    ),
    "UTF-16": (text(MSSD, lambda d: d.decode().encode("utf-16")), Refused("is not UTF-8 text")),
    "UTF-16 without BOM": (
        text(MSSD, lambda data: data.decode().encode("utf-16-le")),
        Refused("log.csv is not UTF-8 text"),
    ),
    "zeros": (text(MSSD, lambda _: bytes(5000)), Refused("log.csv is not UTF-8 text")),
    "bzip2": (text(MSSD, bz2.compress, "log.csv.bz2"), Refused("csv.bz2 is not UTF-8 text")),
    "JSON": (
        text(MSSD, lambda _: b'[{"session_id": "a"}]\n'),
        Refused("log.csv has no column 'session_id'; its columns are"),
    ),
    # gzip and tar.
    "gzip": (text(MSSD, gzip.compress, "log.csv.gz"), Accepted()),
    "gzip under a plain name": (text(MSSD, gzip.compress), Accepted()),
    "two members": (
        (MSSD, lambda f: put(f / "log.csv.gz", FIRST_GZ + SECOND_MEMBER)),
        Accepted(),
    ),
    "two members, with two headers": (
        (MSSD, lambda f: put(f / "log.csv.gz", FIRST_GZ + SECOND_GZ)),
        Refused(
            "log.csv.gz row 12, column session_length: 'session_length' is not", ("session_id",)
        ),
    ),
    "zeros after gzip": (text(MSSD, lambda _: PACKED + bytes(512), "log.csv.gz"), Accepted()),
    "half a gzip": (
        text(MSSD, lambda _: PACKED[: len(PACKED) // 2], "log.csv.gz"),
        Refused("log.csv.gz is damaged, cut short or not what its name says"),
    ),
    "gzip without its checksum": (
        text(MSSD, lambda _: PACKED[:-8]),
        Refused("log.csv is damaged, cut short or not what its name says"),
    ),
    "half a second member": (
        (MSSD, lambda f: put(f / "log.csv.gz", FIRST_GZ + SECOND_MEMBER[:-20])),
        Refused("log.csv.gz is damaged, cut short"),
    ),
    "garbage after gzip": (
        text(MSSD, lambda _: PACKED + b"garbage", "log.csv.gz"),
        Refused("log.csv.gz is damaged, cut short or not what its name says (Not a gzipped file"),
    ),
    "flipped bit in gzip": (
        text(MSSD, lambda _: flipped(PACKED, len(PACKED) // 2)),
        Refused("log.csv is damaged, cut short"),
    ),
    "flipped checksum of gzip": (
        text(MSSD, lambda _: flipped(PACKED, len(PACKED) - 6)),
        Refused("log.csv is damaged, cut short or not what its name says (CRC check failed"),
    ),
    "gzip of nothing": (
        text(MSSD, lambda _: gzip.compress(b""), "log.csv.gz"),
        Refused("log.csv.gz is empty."),
    ),
    "tar": (tar(MSSD, {"x/log_0.csv": MSSD.csv()}), Accepted()),
    "tar of gzip": (tar(MSSD, {"log_0.csv.gz": FIRST_GZ, "log_1.csv.gz": SECOND_GZ}), Accepted()),
    "tar.gz": (tar(MSSD, {"x/log_0.csv": MSSD.csv(), "README.md": b"#"}, "log.tgz"), Accepted()),
    "bad member": (
        tar(MSSD, {"log_0.csv": FIRST_GZ, "x/log_1.csv": b"a,b\n1,2\n"}),
        Refused("log.tar:log_0.csv is not UTF-8 text"),
    ),
    "bad value in a member": (
        tar(MSSD, {"x/log_0.csv": MSSD.csv().replace(b",7,", b",77,", 1)}),
        Refused("log.tar:x/log_0.csv row 2, column hour_of_day: '77' is not an hour", "a"),
    ),
    "half a gzip in a tar": (
        tar(MSSD, {"log_0.csv.gz": PACKED[:-30]}),
        Refused("log.tar:log_0.csv.gz is damaged, cut short"),
    ),
    "half a tar": (
        tar(MSSD, {"log_0.csv": MSSD.csv()}, change=lambda data: data[:1500]),
        Refused("log.tar...is damaged, cut short or not what its name says (unexpected end"),
    ),
    "tar cut between members": (
        tar(MSSD, HALVES, change=lambda data: data[: data.index(b"log_1.csv")]),
        Refused("log.tar is damaged, cut short or not what its name says (no end-of-archive mark"),
    ),
    "tar with a damaged header": (
        tar(MSSD, HALVES, change=lambda data: flipped(data, data.index(b"log_1.csv") + 120)),
        Refused("log.tar is damaged, cut short or not what its name says (a member's header: bad"),
    ),
    "tar with a blank header": (
        tar(MSSD, HALVES, change=lambda data: blanked(data, data.index(b"log_1.csv"))),
        Refused("log.tar is damaged, cut short or not what its name says (a member's header:"),
    ),
    "tar of a file with holes": (
        (MSSD, lambda folder: put(folder / "log.tar", with_holes("log.csv"))),
        Refused("log.tar:log.csv is stored with holes; make the archive without."),
    ),
    "two tars in one": (
        (MSSD, lambda f: put(f / "log.tar", b"".join(tarred(item) for item in HALVES.items()))),
        Accepted(),
    ),
    "tar.gz without its checksum": (
        tar(MSSD, {"log_0.csv": MSSD.csv()}, "log.tar.gz", change=lambda data: data[:-8]),
        Refused("log.tar.gz...is damaged, cut short"),
    ),
    "tar of nothing wanted": (
        tar(MSSD, {"readme.txt": b"hello", "tf_mini.csv": b"track_id\n", "._log.csv": b"\0"}),
        Refused("log.tar has no .csv or .csv.gz member."),
    ),
    "tar that is none": (
        text(MSSD, lambda data: data, "log.tar"),
        Refused("log.tar is damaged, cut short or not what its name says"),
    ),
    "tar that is empty": (text(MSSD, lambda _: b"", "log.tar"), Refused("log.tar is damaged")),
    "member name of two lines": (
        tar(MSSD, {"x\n\x1b[31m.csv": b"a,b\n1,2\n"}),
        Refused(r"log.tar:x\n\x1b[31m.csv has no column"),
    ),
    # Files and folders.
    "no such file": (
        (MSSD, lambda folder: folder / "none.csv"),
        Refused("none.csv: no such file or folder."),
    ),
    "no file matches": (
        (MSSD, lambda folder: folder / "*.csv"),
        Refused("no file matches"),
    ),
    "empty folder": (files(MSSD), Refused("in has no .csv or ... file; it is empty.")),
    "folder of other things": (
        files(MSSD, lambda f: put(f / "a.txt", b""), lambda f: (f / "b").mkdir()),
        Refused("in has no .csv or .csv.gz or ... file; it holds a.txt, b/."),
    ),
    "folder of endings in capitals": (
        files(MSSD, lambda f: put(f / "LOG.CSV", MSSD.csv())),
        Accepted(),
    ),
    "folder in place of a file": (
        files(MSSD, lambda f: put(f / "l.csv", MSSD.csv()), lambda f: (f / "m.csv").mkdir()),
        Refused("m.csv is a folder, not a file; rename or move it."),
    ),
    "link to nothing": (
        files(
            MSSD, lambda f: put(f / "l.csv", MSSD.csv()), lambda f: (f / "m.csv").symlink_to("x")
        ),
        Refused("m.csv: cannot be read: No such file or directory."),
    ),
    "file that cannot be read": (
        files(MSSD, lambda f: (f / "log.csv").symlink_to("/proc/self/mem")),
        Refused("log.csv: cannot be read: Input/output error."),
    ),
    "file and link to it": (
        files(
            TABLE,
            lambda f: put(f / "l.csv", TABLE.csv()),
            lambda f: (f / "m.csv").symlink_to("l.csv"),
        ),
        Refused("m.csv is given twice: it has the same rows as ...l.csv; name each file once."),
    ),
    "file under two names": (
        files(
            TABLE,
            lambda f: put(f / "l.csv", TABLE.csv()),
            lambda f: (f / "m.csv").hardlink_to(f / "l.csv"),
        ),
        Refused("m.csv is given twice: it has the same rows as ...l.csv"),
    ),
    "file and copy": (
        files(
            TABLE, lambda f: put(f / "l.csv", TABLE.csv()), lambda f: put(f / "m.csv", TABLE.csv())
        ),
        Refused("m.csv is given twice: it has the same rows as ...l.csv"),
    ),
    "file, plain and packed": (
        files(
            TABLE,
            lambda f: put(f / "l.csv", TABLE.csv()),
            lambda f: put(f / "l.csv.gz", gzip.compress(TABLE.csv())),
        ),
        Refused("l.csv.gz is given twice: it has the same rows as ...l.csv"),
    ),
    "file that starts like another": (
        files(
            TABLE,
            lambda f: put(f / "l.csv", TABLE.csv(TABLE.rows[:10])),
            lambda f: put(f / "m.csv", TABLE.csv(TABLE.rows[10:])),
        ),
        Accepted(),
    ),
    "second file without a column": (
        files(
            MSSD,
            lambda f: put(f / "l.csv", MSSD.csv()),
            lambda f: put(f / "m.csv", b"session_id\na\n"),
        ),
        Refused("m.csv has no column 'session_position'; its columns are session_id."),
    ),
    # Tables.
    **{
        f"time {value!r}": (cell(TABLE, "when", value), Refused(WHEN.format(value), "b"))
        for value in (
            *("0x10", " 3", "+3", "", "nan", "NaN", "NaT", "soon", "3;0", "2020-01-01", "12:00"),
        )
    },
    **{
        f"time {value!r}": (
            cell(TABLE, "when", value),
            Refused(WHEN.replace("an integer;", why).format(value), "b"),
        )
        for why, values in (
            ("an integer: whole numbers are needed", ("1.5", "1.5e0", "-.5")),
            (
                "within 64 bits: it is too large;",
                ("9223372036854775808", "-9223372036854775809", "9" * 30, "1e19", "1e999"),
            ),
        )
        for value in values
    },
    "whole times with a point": (cell(TABLE, "when", "3.0"), Accepted()),
    "whole times with an exponent": (cell(TABLE, "when", "0.3e1"), Accepted()),
    "times at the limits": (
        rows(
            TABLE,
            lambda r: [
                x | {"when": {"1": str(-(2**63)), "5": str(2**63 - 1)}.get(w := x["when"], w)}
                for x in r
            ],
        ),
        Accepted(as_plain=False),  # they are kept
    ),
    **{
        f"date and time {value!r}": (
            cell(DATES, "when", value),
            Refused(
                f"log.csv row 9, column when: {value!r} is not a date and time without a zone like "
                "the first one;",
                "b",
            ),
        )
        for value in (
            *("5", "", "nan", "2020-01-03T12:00Z", "2020-01-03T12:00+01:00", "2020-02-30"),
            *("2020-01-03T25:00", "2020-01-03T12:00:61", "2020-1-3", "03/01/2020"),
            *("2999-01-01", "1600-01-01", "0000-00-00"),  # beyond 64 bits of nanoseconds
        )
    },
    "date and time in other words": (cell(DATES, "when", "2020-01-03 12:00"), Accepted()),
    "first time of no form": (
        rows(DATES, lambda rows: [rows[0] | {"when": "?"}, *rows[1:]]),
        Refused("log.csv row 2, column when: '?' is not an integer or a date and time", "a"),
    ),
    "no time of any form": (
        column(DATES, "when", "?"),
        Refused("log.csv row 2, column when: '?' is not an integer or a date and time", "abcd"),
    ),
    "files that disagree on time": (
        files(
            TABLE,
            lambda f: put(f / "a.csv", halves(TABLE)[0]),
            lambda f: put(f / "b.csv", halves(DATES)[1]),
        ),
        Refused("b.csv row 2, column when: '2020-01-01T12:00:00' is not an integer;", "cd"),
    ),
    **{
        f"skip {value!r}": (
            cell(TABLE, "hated", value),
            Refused(f"log.csv row 9, column hated: {value!r} is not true/1 or false/0;", "b"),
        )
        for value in ("2", "-1", "", "NA", "nan", "1.0", "yes", " 1")
    },
    "skip as a word": (cell(TABLE, "hated", "TRUE"), Accepted()),
    **{
        f"level {value!r}": (
            cell(LEVELS, "hated", value),
            Refused(
                f"log.csv row 9, column hated: {value!r} is not a skip level from 0 to 3;", "b"
            ),
        )
        for value in ("4", "-1", "1.0", "", "true", "NA")
    },
    "table: position '0x3'": (cell(LEVELS, "when", "0x3"), Refused(WHEN.format("0x3"), "b")),
    "table: a position twice": (cell(LEVELS, "when", "2"), Accepted()),  # in the file's order
    "table: a row twice": (
        rows(TABLE, lambda rows: [*rows, rows[-1]]),
        Accepted(21, as_plain=False),  # a listener may play a track twice
    ),
    "table: rows missing at the end": (rows(TABLE, lambda r: r[:-1]), Accepted(19, as_plain=False)),
    "table: session id ''": (
        cell(TABLE, "user", ""),
        Refused(f"log.csv row 9, column user: '' {NOT_ID};", "", lost=1),
    ),
    "table: track id 'N/A'": (
        cell(TABLE, "item", "N/A"),
        Refused(f"log.csv row 9, column item: 'N/A' {NOT_ID};", "b"),
    ),
    "table: tabs": (
        (TABLE, lambda f: put(f / "log.TSV", TABLE.csv(delimiter="\t"))),
        Accepted(),
    ),
    # Parquet.
    "Parquet": (parquet(), Accepted()),
    "Parquet of categories": (
        parquet(user=pa.array([row["user"] for row in TABLE.rows]).dictionary_encode()),
        Accepted(),
    ),
    "Parquet of 64-bit ids": (
        parquet(
            user=pa.array([2**63 - 1, -(2**63)] * 10), item=pa.array([2**64 - 1] * 20, pa.uint64())
        ),
        Accepted(as_plain=False),
    ),
    "Parquet of whole floats": (
        parquet(when=[float(row["when"]) for row in TABLE.rows]),
        Accepted(),
    ),
    "Parquet of strings from 1 MB": (
        parquet(item=third("t", "x" * 1_000_000)),
        Refused("log.parquet row 8, column item: 'xxx...x... is not an id;", "b"),
    ),
    **{
        f"Parquet, {what} {kind}": (
            parquet(**{what: pa.array(third(good, bad), kind)}),
            Refused(f"log.parquet row 8, column {what}: {shown} is not {expected}", drops, lost),
        )
        for what, kind, good, bad, shown, expected, drops, lost in (
            ("item", pa.string(), "t", None, "None", "a value", "b", 0),
            ("item", pa.int64(), 1, None, "None", "a value", "b", 0),
            ("place", pa.string(), "x", None, "None", "a value", "b", 0),
            ("place", pa.bool_(), True, None, "None", "a value", "b", 0),
            ("place", pa.date32(), datetime.date(2020, 1, 1), None, "None", "a value", "b", 0),
            ("place", pa.int16(), 1, None, "None", "a 64-bit integer", "b", 0),
            ("place", pa.uint64(), 1, 2**63, "9223372036854775808", "a 64-bit integer", "b", 0),
            ("hated", pa.bool_(), True, None, "None", "a value", "b", 0),
            ("hated", pa.int8(), 1, 2, "2", "true/1 or false/0", "b", 0),
            ("when", pa.int32(), 1, None, "None", "an integer", "b", 0),
            ("when", pa.string(), "1", None, "None", "an integer", "b", 0),
            ("when", pa.float64(), 1.0, 2.5, "2.5", "an integer", "b", 0),
            ("when", pa.float32(), 1.0, float("nan"), "nan", "an integer", "b", 0),
            ("when", pa.float64(), 1.0, float("inf"), "inf", "an integer", "b", 0),
            ("when", pa.float64(), 1.0, 2.0**53, "9007199254740992.0", "within what", "b", 0),
            ("when", pa.float32(), 1.0, 2.0**24, "16777216.0", "within what", "b", 0),
            ("when", pa.uint64(), 1, 2**63, "9223372036854775808", "within 64 bits", "b", 0),
            (
                "when",
                pa.timestamp("us"),
                1,
                2**62,
                "4611686018427387904 (timestamp[us])",
                "a date",
                "b",
                0,
            ),
        )
    },
    "Parquet, no session id": (
        parquet(user=[None if i == THIRD else row["user"] for i, row in enumerate(TABLE.rows)]),
        Refused("log.parquet row 8, column user: None is not a value;", "", lost=1),
    ),
    **{
        f"Parquet, {what} {kind}": (
            parquet(**{what: pa.array([value] * 20, kind)}),
            Refused(f"log.parquet, column {what}, holds {kind}, not {expected}"),
        )
        for what, kind, value, expected in (
            ("user", pa.float64(), 1.0, "text, whole numbers or flags."),
            ("item", pa.binary(), b"x", "text, whole numbers or flags."),
            ("item", pa.decimal128(9, 2), 1, "text, whole numbers or flags."),
            ("place", pa.float32(), 1.0, "text, whole numbers or flags."),
            ("when", pa.time64("us"), 1, "an integer or a date and time"),
            ("hated", pa.float64(), 1.0, "text, whole numbers or flags."),
            ("item", pa.list_(pa.field("element", pa.string())), ["x"], "single values."),
            ("user", pa.struct({"x": pa.int64()}), {"x": 1}, "single values."),
        )
    },
    "Parquet without a column": (
        (TABLE, lambda f: pq.write_table(pa.table({"user": ["a"]}), f / "l.parquet") or f),
        Refused("l.parquet has no column 'item'; its columns are user."),
    ),
    "Parquet without rows": (
        parquet(**{name: pa.array([], pa.string()) for name in TABLE.rows[0]}),
        Refused("log.parquet has no rows."),
    ),
    "Parquet, half": (
        parquet(change=lambda data: data[: len(data) // 2]),
        Refused("log.parquet is damaged, cut short or not what its name says"),
    ),
    "Parquet, empty": (parquet(change=lambda _: b""), Refused("log.parquet is damaged, cut short")),
    "Parquet, a bit flipped in a page": (
        parquet(change=lambda data: flipped(data, data.index(b"home") + 1)),
        Refused("log.parquet is damaged, cut short or not what its name says (could not verify"),
    ),
    "Parquet that is CSV": (
        text(TABLE, lambda data: data, "log.parquet"),
        Refused("log.parquet is damaged, cut short or not what its name says"),
    ),
    "CSV that is Parquet": (
        parquet(name="log.csv"),
        Refused("log.csv is not UTF-8 text"),
    ),
}


class Outcomes:
    """What good logs and parts of them are prepared as; each is asked for again and again."""

    def __init__(self, folder):
        self._folder = folder
        self._digests = {}

    def digest(self, log, rows):
        key = log.csv(rows), log.options
        if key not in self._digests:
            place = self._folder / str(len(self._digests))
            put(place.with_suffix(".csv"), log.csv(rows))
            code = main(arguments(log, place.with_suffix(".csv"), place))
            assert code == 0
            self._digests[key] = Sessions.open(place).digest
        return self._digests[key]


@pytest.fixture(autouse=True)
def not_synced(monkeypatch):
    """Most of the time would go into waiting for a disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return Outcomes(tmp_path_factory.mktemp("good"))


def arguments(log, source, out, policy="error"):
    return [
        "prepare",
        log.kind,
        str(source),
        "--out",
        str(out),
        *log.options,
        f"--on_bad_session={policy}",
    ]


def said(line, parts):
    """Whether the line has all the parts, in this order."""
    at = 0
    for part in parts.split("..."):
        at = line.find(part.strip(), at)
        if at < 0:
            return False
        at += len(part.strip())
    return True


@pytest.mark.parametrize("name", CASES)
def test_what_is_accepted_and_what_is_refused(name, outcomes, tmp_path, capsys):
    (log, make), expected = CASES[name]
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in")

    def prepare(policy):
        capsys.readouterr()
        code = main(arguments(log, source, tmp_path / "out" / policy, policy))
        err = capsys.readouterr().err
        if code:
            assert code == 65
            assert err.startswith("skipjax: ")
            assert err.count("\n") == 1
            assert len(err) < 1000
            assert err.rstrip("\n").isprintable()
            return None, err
        assert err == ""
        return Sessions.open(tmp_path / "out" / policy), ""

    if isinstance(expected, Accepted):
        sessions, err = prepare("error")
        assert err == ""
        assert sessions.num_events == expected.events
        assert (sessions.digest == outcomes.digest(log, log.rows)) == expected.as_plain
        return
    sessions, err = prepare("error")
    assert sessions is None
    assert said(err, expected.says), err
    sessions, second = prepare("drop")
    if expected.drops is None:
        assert second == err
        assert os.listdir(tmp_path) == ["in"]
        return
    rows = log.without(expected.drops)
    if log.kind == "table" and expected.lost:
        rows = [row for row in rows if row is not log.rows[THIRD]]
    if not rows:
        reason = expected.says.partition(", ")[2]
        assert said(second, f"no good session has 4 ... dropped were 4 sessions ... {reason}")
        assert os.listdir(tmp_path) == ["in"]
        return
    assert os.listdir(tmp_path / "out") == ["drop"]
    if name.startswith("Parquet"):  # of columns that a CSV does not have
        assert set(sessions.session_ids.to_pylist()) == {row["user"] for row in rows}
        assert sessions.num_events == len(rows)
    else:
        assert sessions.digest == outcomes.digest(log, rows)
    with open(tmp_path / "out" / "drop" / "dropped.csv", newline="", encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert sorted(line["session_id"] for line in listed) == sorted(
        [*expected.drops, *[""] * expected.lost]
    )
    assert sessions.info["dropped"] == {
        "sessions": len(expected.drops),
        "events": sum(int(line["events"]) for line in listed if line["session_id"]),
        "rows": expected.lost,
    }
    assert any(
        line["reason"] in err and f"{line['file']} row {line['row']}" in err for line in listed
    )
