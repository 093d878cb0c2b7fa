"""The section of the report on where S+ helps: its differences to S- in parts of the sessions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skipjax.study.report import page, plots
from skipjax.study.wording import (
    MISSING,
    Encoder,
    comparison,
    decimal,
    encoders,
    finite,
    interval,
    plain,
    signed,
)

_MEASURE = "test_full/hr@10"
_NOTES = {
    "popularity_decile": "1 is the least popular tenth.",
    "target": "Of skipped targets, a model that knows what is skipped should hit fewer.",
}


def by_context(study: Mapping[str, Any]) -> str:
    blocks = []
    for by in _contexts(study):
        found = [(encoder, _effects(study, encoder, by)) for encoder in encoders(study)]
        # Both encoders on one scale.
        limit = max((plots.effects_limit(rows) for _, rows in found if rows), default=0.0)
        figures = [_figure(encoder, by, rows, limit) for encoder, rows in found if rows]
        if figures:
            tables = "".join(_table(encoder, by) for encoder, rows in found if rows)
            note = page.note(_NOTES[by]) if by in _NOTES else ""
            numbers = f"<details><summary>Numbers</summary>{tables}</details>"
            blocks.append(
                f"<h3>By {page.escape(_words(by))}</h3>{note}{page.figures(figures)}{numbers}"
            )
    if not blocks:
        return ""
    note = page.note(
        "Difference in HR@10 among all tracks to S- of the same encoder, with 95 % intervals. "
        "These are for looking: they are not corrected for their number, so that of twenty "
        "intervals about one misses the truth. An arrow says that an interval goes on beyond "
        "the chart."
    )
    return note + "".join(blocks)


def _contexts(study: Mapping[str, Any]) -> list[str]:
    found = [
        row["by"]
        for encoder in encoders(study)
        for arm in encoder.arms
        for row in arm.get("breakdown") or ()
    ]
    return list(dict.fromkeys(found))


def _words(by: str) -> str:
    return plain(by).replace("_", " ")


def _part(arm: Mapping[str, Any], by: str) -> dict[str, dict[str, Any]]:
    """The rows of an arm's breakdown by `by`, by value."""
    return {str(row["value"]): row for row in arm.get("breakdown") or () if row["by"] == by}


def _effects(study: Mapping[str, Any], encoder: Encoder, by: str) -> list[plots.Effects]:
    """All sessions, then each value of the context; empty where nothing was compared."""
    arms = encoder.arms[1:]
    parts = [_part(arm, by) for arm in arms]
    rows = []
    for value in dict.fromkeys(value for part in parts for value in part):
        found = [part.get(value) for part in parts]
        effects = tuple(_ends(((row or {}).get("comparison") or {}).get(_MEASURE)) for row in found)
        rows.append(plots.Effects(value, _sessions(found), effects))
    if not any(values for row in rows for values in row.arms):
        return []
    whole = tuple(_ends(comparison(arm, _MEASURE)) for arm in arms)
    return [plots.Effects("all sessions", study.get("sessions"), whole), *rows]


def _ends(found: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    """Difference, low and high, if they are all there."""
    values = tuple(finite((found or {}).get(name)) for name in ("difference", "low", "high"))
    return None if None in values else values


def _sessions(rows: Iterable[Mapping[str, Any] | None]) -> int | None:
    return next((row["sessions"] for row in rows if row and "sessions" in row), None)


def _figure(encoder: Encoder, by: str, rows: Sequence[plots.Effects], limit: float) -> str:
    said = []
    for row in rows:
        for name, values in zip(encoder.names[1:], row.arms, strict=True):
            if values:
                difference, low, high = values
                said.append(
                    f"{row.label}: {name} {signed(difference)}, {decimal(low)} to {decimal(high)}"
                )
    return page.figure(
        plots.effects(rows, encoder.names[1:], "difference in HR@10, all tracks", limit),
        f"{encoder.title}, by {_words(by)}",
        "; ".join(said),
    )


def _table(encoder: Encoder, by: str) -> str:
    parts = [_part(arm, by) for arm in encoder.arms]
    rows = []
    for value in dict.fromkeys(value for part in parts for value in part):
        found = [part.get(value) or {} for part in parts]
        sessions = _sessions(found)
        row = [value, MISSING if sessions is None else f"{sessions:,}"]
        row += [decimal(one.get(_MEASURE)) for one in found]
        for one in found[1:]:
            ends = (one.get("comparison") or {}).get(_MEASURE) or {}
            text = f"{signed(ends['difference'])} ({interval(ends)})" if _ends(ends) else MISSING
            row.append(text)
        rows.append(page.texts(row))
    names = encoder.names
    return page.table(
        f"{encoder.title} by {_words(by)}",
        (_words(by), "sessions", *names, *names[1:]),
        [("", rows)],
        [("", 2), ("HR@10, all tracks", len(names)), ("difference to S-", len(names) - 1)],
        caption=encoder.title,
    )
