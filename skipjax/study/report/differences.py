"""Sections of the report on what an arm is against the one that it is compared with.

Each returns HTML, or "" where the study has nothing for it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skipjax.study.report import page, plots
from skipjax.study.wording import (
    AMONG,
    HIT_RATES,
    MEASURES,
    MISSING,
    arms_of,
    comparison,
    decimal,
    encoders,
    finite,
    headlines,
    label,
    p_value,
    percent,
    plain,
    sentences,
    signed,
    verdict,
)

_OTHERS = tuple(name for name in MEASURES if name not in HIT_RATES)
_COLOURS = (
    "Lines are 95 % intervals. Blue is better and orange worse with p < .05 after Holm's "
    "correction, grey neither."
)


def answer(study: Mapping[str, Any]) -> str:
    blocks = [f'<p class="headline">{page.escape(line)}</p>' for line in headlines(study)]
    for encoder in encoders(study):
        said, more = (_said(encoder.arms[1:], names) for names in (HIT_RATES, _OTHERS))
        if more:
            more = f"<details><summary>MRR and gap</summary>{more}</details>"
        if said or more:
            blocks.append(f"<h3>{page.escape(encoder.title)} encoder</h3>{said}{more}")
    if not blocks:
        return ""
    notes = []
    compared = [arm for arm in arms_of(study) if arm.get("comparisons")]
    if compared and min(len(arm.get("seeds") or ()) for arm in compared) == 1:
        notes.append(
            "Arms with one seed have intervals that cover the choice of sessions, but not the luck "
            "of a seed."
        )
    notes.append(
        "Intervals are 95 % bootstrap intervals over sessions and seeds, not corrected; "
        "▲ better and ▼ worse are given where p is below .05 after Holm's correction. "
        "“No difference found” does not say that there is none."
    )
    notes.append(plain(study.get("family", "")))
    return "\n".join(blocks) + page.note(" ".join(note for note in notes if note))


def _said(arms: Iterable[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The sentences of arms as a list, each with the mark of its verdict."""
    items = []
    for arm in arms:
        for name in names:
            for sentence in sentences([arm], [name]):
                kind = verdict(comparison(arm, name))
                items.append(f"<li>{page.mark(kind)}<span>{page.escape(sentence)}</span></li>")
    return f'<ul class="said">{"".join(items)}</ul>' if items else ""


def to_base(study: Mapping[str, Any]) -> str:
    arms = [arm for encoder in encoders(study) for arm in encoder.arms[1:]]
    return _charts(arms)


def _charts(arms: Sequence[Mapping[str, Any]]) -> str:
    """For each ranking, the difference of each arm in HR@10 as a bar."""
    figures = []
    for name in HIT_RATES:
        rows = []
        for arm in arms:
            found = comparison(arm, name)
            if not found:
                continue
            relative = finite(found.get("relative"))
            text = signed(found["difference"])
            text += "" if relative is None else f" ({percent(relative)})"
            text += f", {p_value(found.get('p_holm'))}"
            low, high = finite(found.get("low")), finite(found.get("high"))
            rows.append(plots.Bar(label(arm), found["difference"], text, low, high, verdict(found)))
        if not rows:
            continue
        among = AMONG[name.partition("/")[0]]
        figures.append(
            page.figure(
                plots.bars(rows, f"difference in HR@10 {among}"),
                f"HR@10 {among}",
                "; ".join(
                    f"{row.label} {row.text}, 95 % interval {decimal(row.low)} to "
                    f"{decimal(row.high)}"
                    for row in rows
                ),
            )
        )
    return page.figures(figures) + page.note(_COLOURS) if figures else ""


def ablations(study: Mapping[str, Any]) -> str:
    matrix = _matrix(study)
    if not matrix:
        return ""
    blocks = [matrix]
    others = [arm for arm in arms_of(study) if arm.get("group") != "table1"]
    for base, arms in _by_base(study, others).items():
        charts = _charts(arms)
        if charts:
            said = _said(arms, HIT_RATES)
            words = f"<details><summary>In words</summary>{said}</details>" if said else ""
            blocks.append(f"<h3>Difference to {page.escape(base)}</h3>{charts}{words}")
    return "".join(blocks)


def _by_base(
    study: Mapping[str, Any], arms: Iterable[Mapping[str, Any]]
) -> dict[str, list[Mapping[str, Any]]]:
    """The compared arms among `arms`, by the label of the arm that they are compared with."""
    labels = {arm["key"]: label(arm) for arm in arms_of(study)}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for arm in arms:
        if any(comparison(arm, name) for name in MEASURES):
            base = arm.get("against")
            found.setdefault(labels.get(base, plain(base)), []).append(arm)
    return found


def _matrix(study: Mapping[str, Any]) -> str:
    """Every compared arm by every measure, the difference as text and as a colour."""
    everyone = arms_of(study)
    names = [name for name in MEASURES if any(comparison(arm, name) for arm in everyone)]
    if not names:
        return ""
    # A gap may be near 0 or below it, where a ratio means nothing.
    absolute = {name for name in names if "gap" in name}
    largest = {
        name: max(abs(_shown(comparison(arm, name), name in absolute) or 0.0) for arm in everyone)
        for name in names
    }
    bodies = [
        (
            f"against {base}",
            [
                [
                    page.th(label(arm)),
                    *(
                        _shaded(comparison(arm, name), name in absolute, largest[name])
                        for name in names
                    ),
                ]
                for arm in arms
            ],
        )
        for base, arms in _by_base(study, everyone).items()
    ]
    head = ("arm", *(MEASURES[name] for name in names))
    return page.table("Arms by measures", head, bodies, kind="matrix") + page.note(
        "Difference to the arm named above each block: relative for HR and MRR, absolute for the "
        "gap; then its 95 % interval and p after Holm's correction. Blue is better and orange "
        "worse, stronger for larger differences; ▲, ▼ and full colours mark p < .05."
    )


def _shown(found: Mapping[str, Any], absolute: bool) -> float | None:
    if not absolute and finite(found.get("relative_low")) is None:
        return None  # the ratio to a base of about 0 says nothing
    return finite(found.get("difference" if absolute else "relative"))


def _shaded(found: Mapping[str, Any], absolute: bool, largest: float) -> str:
    """A cell of the matrix; `largest` of its measure has the strongest colour."""
    value = _shown(found, absolute)
    if value is None and not found:
        return f"<td>{MISSING}</td>"
    kind = verdict(found)
    if value is None:  # no ratio, and no colour
        value, absolute, largest = found["difference"], True, math.inf
    text = signed(value) if absolute else percent(value)
    low, high = finite(found.get("relative_low")), finite(found.get("relative_high"))
    if absolute or low is None or high is None:
        ends = f"{signed(found.get('low'))} to {signed(found.get('high'))}"
    else:
        ends = f"{percent(low).removesuffix(' %')} to {percent(high)}"
    strength = 0.55 * math.sqrt(abs(value) / largest) if largest else 0.0
    strength *= 0.35 if kind == "none" else 1.0
    colour = "up" if value > 0 else "down"
    mark = f"{page.mark(kind)} " if kind != "none" else ""
    return (
        f'<td style="background:rgb(var(--{colour}) / {strength:.2f})">{mark}'
        f"<strong>{page.escape(text)}</strong>"
        f"<small>{page.escape(ends)}</small>"
        f"<small>{page.escape(p_value(found.get('p_holm')))}</small></td>"
    )
