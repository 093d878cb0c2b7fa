"""Sections of the report on how its numbers came about: training, tuning and facts.

Each returns HTML, or "" where the study has nothing for it.
"""

from collections.abc import Mapping
from typing import Any

from skipjax.study.report import page, plots
from skipjax.study.wording import (
    MISSING,
    Cell,
    arms_of,
    data_text,
    decimal,
    encoders,
    finite,
    label,
    plain,
    trained_seeds,
)


def training(study: Mapping[str, Any]) -> str:
    figures = []
    for name, ylabel, options in (
        ("valid/hr@10", "HR@10 on validation", {"peaks": True}),
        ("train/loss", "training loss", {"from_zero": False}),
    ):
        for encoder in encoders(study):
            lines = [
                line
                for i, (arm, words) in enumerate(zip(encoder.arms, encoder.names, strict=True))
                for line in _curves(arm, name, words, i)
            ]
            if lines:
                said = f"{ylabel} by epoch of {', '.join(dict.fromkeys(x.label for x in lines))}"
                chart = plots.lines(lines, "epoch", ylabel, **options)
                figures.append(page.figure(chart, f"{encoder.title} encoder", said))
    panels = []
    by_key = {arm["key"]: arm for arm in arms_of(study)}
    for arm in arms_of(study):
        own = _curves(arm, "valid/hr@10", label(arm), 0)
        if own and arm.get("group") != "table1":
            base = by_key.get(arm.get("against"), {})
            of_base = _curves(base, "valid/hr@10", "S-", 0)
            panels.append(plots.Panel(label(arm), own, of_base))
    if panels:
        said = f"HR@10 on validation by epoch of {', '.join(panel.title for panel in panels)}"
        for chart in plots.small_curves(panels, "epoch", "HR@10 on validation"):
            figures.append(
                page.figure(chart, "Other arms (blue) and what they are compared with (grey)", said)
            )
    if not figures:
        return ""
    return page.figures(figures) + page.note(
        "One line a seed; dots mark the epoch that was kept, the best on validation. "
        "A line that still rises at its end was cut short. The loss of S+ contains the skip term, "
        "so its level does not compare with that of S-."
    )


def _curves(arm: Mapping[str, Any], name: str, words: str, number: int) -> list[plots.Line]:
    lines = []
    for curve in arm.get("curves") or ():
        epochs, values = curve.get("epoch") or (), curve.get(name) or ()
        if len(epochs) == len(values) and any(finite(v) is not None for v in values):
            lines.append(plots.Line(words, epochs, values, number))
    return lines


def tuning(study: Mapping[str, Any]) -> str:
    rows = study.get("tuning") or ()
    if not rows:
        return ""
    labels = {arm["key"]: label(arm) for arm in arms_of(study)}
    body = []
    for row in rows:
        texts = [
            labels.get(row.get("arm"), plain(row.get("arm", MISSING))),
            *(_number(row.get(name)) for name in ("learning_rate", "alpha", "beta")),
            decimal(row.get("valid/hr@10")),
            "yes" if row.get("chosen") else "",
        ]
        best = bool(row.get("chosen"))
        body.append([page.th(texts[0]), *(page.td(Cell(text, best=best)) for text in texts[1:])])
    head = ("arm", "learning rate", "α", "β", "HR@10, validation", "chosen")
    return page.table("Tuning runs", head, [("", body)]) + page.note(
        f"{len(rows)} runs of one seed each, chosen by HR@10 on validation among sampled "
        "candidates; no test session had a say."
    )


def _number(value: Any) -> str:
    value = finite(value)
    return MISSING if value is None else f"{value:g}"


def facts(study: Mapping[str, Any]) -> str:
    arms = arms_of(study)
    facts = {
        "data": data_text(study),
        "digest of the data": study.get("digest"),
        "seeds": trained_seeds(study),
        "comparisons": study.get("family"),
    }
    facts |= study.get("environment") or {}
    items = "".join(
        f"<dt>{page.escape(name)}</dt><dd>{page.escape(value)}</dd>"
        for name, value in facts.items()
        if value
    )
    command = ""
    if study.get("command"):
        code = f"<pre><code>{page.escape(study['command'])}</code></pre>"
        command = f"<h3>Command</h3>{page.scroll(code, 'Command')}"
    rows = [
        page.texts(
            [
                label(arm),
                arm["key"],
                ", ".join(map(str, arm.get("seeds") or ())),
                ", ".join(
                    f"{name} = {value}" for name, value in (arm.get("settings") or {}).items()
                ),
            ]
        )
        for arm in arms
    ]
    table = page.table(
        "Arms and their settings", ("arm", "key", "seeds", "sets"), [("", rows)], kind="words"
    )
    return f"<dl>{items}</dl>{command}<h3>Arms</h3>{table}"
