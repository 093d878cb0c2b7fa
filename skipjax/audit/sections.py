"""Sections of the page below the findings: charts, numbers and facts.

Each returns HTML, or "" where the audit has nothing for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from skipjax.audit import charts as kinds
from skipjax.audit.finding import share
from skipjax.audit.signal import NAMES
from skipjax.study.report import page, plots
from skipjax.study.wording import decimal, plain

_MOST_COLUMNS = 40  # of a chart of lengths; more are put together
_HIDDEN = ("sessions_by_length", "sessions_by_bin", "plays", "shares", "values", "baselines")


def about(audit: Mapping[str, Any]) -> str:
    found = _by_name(audit)["size"]["numbers"]
    return (
        f"{plain(audit['source'] or 'unnamed data')}, {found['sessions']:,} sessions, "
        f"{found['events']:,} plays, {found['tracks']:,} tracks."
    )


def charts(audit: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, heading and body of each."""
    found = _by_name(audit)
    return [
        ("sessions", "Sessions", _sessions(found)),
        ("skips", "Where tracks are skipped", _skips(found)),
        ("signal", "Can skips be foretold?", _signal(found)),
        ("popularity", "Popularity", _popularity(found)),
        ("future", "The future", _future(found)),
    ]


def _by_name(audit: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {finding["name"]: finding for finding in audit["findings"]}


def _sessions(found: Mapping[str, Mapping[str, Any]]) -> str:
    counts = {int(n): c for n, c in found["lengths"]["numbers"]["sessions_by_length"].items()}
    lengths, sessions = _binned(counts)
    figures = [
        page.figure(
            kinds.columns(lengths, sessions, "tracks", "sessions"),
            "Lengths of sessions",
            found["lengths"]["sentence"].rstrip("."),
        )
    ]
    numbers = found["temporal"]["numbers"]
    if numbers:
        figures.append(_over_time(found["temporal"]))
    return page.figures(figures)


def _binned(counts: Mapping[int, int]) -> tuple[Sequence[float], Sequence[int]]:
    """Middles of bins of whole lengths, and how many sessions are in each."""
    low, high = min(counts), max(counts)
    size = -(-(high - low + 1) // _MOST_COLUMNS)
    bins = np.zeros((high - low) // size + 1, np.int64)
    for length, count in counts.items():
        bins[(length - low) // size] += count
    return (low + size * np.arange(len(bins)) + (size - 1) / 2).tolist(), bins.tolist()


def _over_time(finding: Mapping[str, Any]) -> str:
    numbers = finding["numbers"]
    bins, hours = numbers["sessions_by_bin"], numbers["hours"]
    unit, size = ("days", 24.0) if hours >= 72 else ("hours", 1.0)
    width = numbers["bin_hours"] / size
    middles = [(i + 0.5) * width for i in range(len(bins))]
    marks = [((hours - numbers["test_hours"]) / size, "test")] if numbers["possible"] else []
    return page.figure(
        kinds.columns(middles, bins, f"{unit} since the first play", "sessions", marks=marks),
        "When sessions start",
        finding["sentence"].rstrip("."),
    )


def _skips(found: Mapping[str, Mapping[str, Any]]) -> str:
    whole = found["skip_share"]["numbers"]["share"]
    position = found["skips_by_position"]["numbers"]
    places = list(range(1, len(position["shares"]) + 1))
    figures, tables = [], []
    if len(places) <= 2 * _MOST_COLUMNS:
        figures.append(
            page.figure(
                kinds.columns(
                    places, position["shares"], "position", "skipped", shares=True, level=whole
                ),
                "By position in the session",
                found["skips_by_position"]["sentence"].rstrip("."),
            )
        )
    for name, finding in found.items():
        values = finding["numbers"].get("values")
        if not name.startswith("skips_by_") or not values:
            continue
        by = finding["title"].removeprefix("Skips ").replace("_", " ")
        rows = [(value, row["plays"], row["share"]) for value, row in values.items()]
        tables.append(_table(by, rows))
        if name == "skips_by_hour":
            picture = kinds.columns(
                [int(value) for value, _, _ in rows],
                [part for _, _, part in rows],
                "hour",
                "skipped",
                shares=True,
                level=whole,
            )
        else:
            bars = [
                plots.Bar(f"{value} ({plays:,} plays)", part, share(part), tone="better")
                for value, plays, part in rows
                if part is not None
            ]
            picture = plots.bars(bars, "skipped", shares=True)
        figures.append(page.figure(picture, by, finding["sentence"].rstrip(".")))
    note = page.note(f"Dotted: the share of all plays, {share(whole)}.")
    details = f"<details><summary>Numbers</summary>{''.join(tables)}</details>" if tables else ""
    return page.figures(figures) + note + details


def _table(by: str, rows: Sequence[tuple[str, int, float | None]]) -> str:
    body = [
        page.texts([value, f"{plays:,}", "–" if part is None else share(part)])
        for value, plays, part in rows
    ]
    return page.table(by, ("", "plays", "skipped"), [("", body)], caption=by)


def _signal(found: Mapping[str, Mapping[str, Any]]) -> str:
    numbers = found["signal"]["numbers"]
    if not numbers["baselines"]:
        return ""
    rows = [
        *((NAMES[row["name"]], row, "better") for row in numbers["baselines"]),
        ("the same, with shuffled labels", numbers["shuffled"], "none"),
    ]
    dots = [
        kinds.Dot(
            label,
            row["auc"],
            row["low"],
            row["high"],
            f"{decimal(row['auc'], 2)} ({decimal(row['low'], 2)}–{decimal(row['high'], 2)})",
            tone,
        )
        for label, row, tone in rows
    ]
    figure = page.figure(
        kinds.separability(dots, "AUC"),
        "Telling skipped from played",
        "; ".join(f"{dot.label} {dot.text}" for dot in dots),
    )
    held_out = numbers["held_out"]
    return page.figures([figure]) + page.note(
        "AUC: how often a skipped play gets the higher score than a played one; .5 is chance. "
        "Lines are 95 % bootstrap intervals over listeners. Fitted on "
        f"{held_out['training_events']:,} plays that leave-one-out trains on, tested on the "
        f"{held_out['events']:,} that it holds out, of {held_out['sessions']:,} sessions. Nothing "
        "that was logged of the play itself is read."
    )


def _popularity(found: Mapping[str, Mapping[str, Any]]) -> str:
    tops = found["popularity"]["numbers"]["plays_of_top"]
    bars = [
        plots.Bar(f"the most played {100 * float(part):g} % of tracks", value, share(value))
        for part, value in tops.items()
    ]
    figure = page.figure(
        plots.bars(bars, "share of all plays", shares=True),
        "Plays of the most played tracks",
        found["popularity"]["sentence"].rstrip("."),
    )
    return page.figures([figure])


def _future(found: Mapping[str, Mapping[str, Any]]) -> str:
    leak, markov = (found[name]["numbers"] for name in ("future", "future_markov"))
    if not leak:
        return ""
    where = {
        "earlier": "in an earlier session",
        "later": "in a later session",
        "only_later": "only in later sessions",
    }
    bars = [
        plots.Bar(
            f"{label} {words}",
            leak[what][key],
            share(leak[what][key]),
            tone="worse" if key == "only_later" else "plain",
        )
        for what, label in (("pair", "pair"), ("target", "target"))
        for key, words in where.items()
    ]
    rates = [
        plots.Bar(label, markov[key], decimal(markov[key], 3), tone=tone)
        for key, label, tone in (
            ("hr@10", "all sessions, as leave-one-out has it", "plain"),
            ("hr@10_as_many_at_random", "as many as are earlier, drawn at random", "plain"),
            ("hr@10_earlier", "earlier sessions alone", "better"),
        )
    ]
    return page.figures(
        [
            page.figure(
                plots.bars(bars, "share of test targets", shares=True),
                "What training has of test targets",
                found["future"]["sentence"].rstrip("."),
            ),
            page.figure(
                plots.bars(rates, "HR@10 among all tracks"),
                "The last-track Markov baseline, trained on",
                found["future_markov"]["sentence"].rstrip("."),
            ),
        ]
    ) + page.note(
        "Pair: the track before the target, and the target. Later sessions start after the one "
        "that is asked about, earlier ones before it."
    )


def numbers(audit: Mapping[str, Any]) -> str:
    bodies = [
        (finding["title"], [page.texts(row) for row in _scalars(finding["numbers"])])
        for finding in audit["findings"]
    ]
    table = page.table("All numbers", ("", "value"), bodies)
    if not table:
        return ""
    return (
        page.note("These, and what the charts are drawn from, are in audit.json.")
        + f"<details><summary>Show them</summary>{table}</details>"
    )


def _scalars(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if name in _HIDDEN or value is None:
            continue
        words = f"{before}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{words}, ")
        elif isinstance(value, list):
            yield words, ", ".join(map(str, value)) or "–"
        elif isinstance(value, bool):
            yield words, "yes" if value else "no"
        elif isinstance(value, int):
            yield words, f"{value:,}"
        elif isinstance(value, float):
            yield words, f"{value:,.4g}"
        else:
            yield words, str(value)


def facts(audit: Mapping[str, Any]) -> str:
    items = {
        "digest of the data": audit["digest"],
        "skipped means": audit["skipped_means"],
        "split of the run": audit["split"],
        "skipjax": audit["skipjax"],
    }
    listed = "".join(
        f"<dt>{page.escape(name)}</dt><dd>{page.escape(value)}</dd>"
        for name, value in items.items()
        if value
    )
    tables = [
        page.table(title, ("", "value"), [("", [page.texts(row) for row in rows])], caption=title)
        for title, rows in (
            ("Config", [(f"config.{k}", str(v)) for k, v in audit["config"].items()]),
            (
                "From where on a number counts",
                [(k.lower().replace("_", " "), f"{v:g}") for k, v in audit["thresholds"].items()],
            ),
        )
    ]
    return (
        f"<dl>{listed}</dl><details><summary>Config and thresholds</summary>{''.join(tables)}"
        "</details>"
    )
