"""Sections of the report on what each arm reaches, whatever it is compared with.

Each returns HTML, or "" where the study has nothing for it.
"""

from collections.abc import Mapping
from typing import Any

from skipjax.study.report import page, plots
from skipjax.study.wording import (
    AMONG,
    GROUPS,
    RANKINGS,
    arms_of,
    decimal,
    encoders,
    finite,
    label,
    main_rows,
    mean,
    mean_and_std,
    seeds_text,
    signed,
)


def table1(study: Mapping[str, Any]) -> str:
    found = encoders(study)
    bodies = [
        (AMONG[ranking], [page.cells(row) for row in main_rows(study, ranking)])
        for ranking in RANKINGS
    ]
    if not any(rows for _, rows in bodies):
        return ""
    groups = [("", 1), *((encoder.title, len(encoder.arms)) for encoder in found)]
    names = ["", *(name for encoder in found for name in encoder.names)]
    arms = [arm for encoder in found for arm in encoder.arms]
    return page.table("HR by arm of Table 1", names, bodies, groups, "narrow") + page.note(
        f"Mean ± sample standard deviation over {seeds_text(arms)}; below it the increase over S- "
        "of the same encoder. The best of each encoder is bold, which says nothing about chance: "
        "see the answer above. HR equals recall here, since each session has one target."
    )


def hit_rates(study: Mapping[str, Any]) -> str:
    figures = []
    baselines = arms_of(study, "baseline")
    for ranking, among in AMONG.items():
        every = [arm for encoder in encoders(study) for arm in encoder.arms] + baselines
        values = [value for arm in every for value in _curve(arm, ranking)[1]]
        top = max((v for v in values if finite(v) is not None), default=0) * 1.05
        for encoder in encoders(study):
            lines = []
            members = [
                *zip(encoder.arms, encoder.names, range(len(encoder.arms)), strict=True),
                *((arm, label(arm), None) for arm in baselines),
            ]
            for arm, name, number in members:
                k, rates = _curve(arm, ranking)
                if k:
                    lines.append(plots.Line(name, k, rates, number))
            if top and any(line.arm is not None for line in lines):
                figures.append(
                    page.figure(
                        plots.lines(lines, "k", "HR@k", logarithmic=True, top=top),
                        f"{encoder.title}, {among}",
                        "; ".join(
                            f"{line.label} from {decimal(line.y[0])} at k = {line.x[0]} to "
                            f"{decimal(line.y[-1])} at k = {line.x[-1]}"
                            for line in lines
                        ),
                    )
                )
    if not figures:
        return ""
    return page.figures(figures) + page.note(
        "Share of sessions whose target is among the first k, mean over seeds. "
        "The vertical scale is the same for both encoders. Dotted: baselines."
    )


def _curve(arm: Mapping[str, Any], ranking: str) -> tuple[list[int], list[float | None]]:
    found = arm.get("hr_at_k") or {}
    k, rates = list(found.get("k") or ()), list(found.get(ranking) or ())
    return (k, rates) if len(k) == len(rates) else ([], [])


def played_and_skipped(study: Mapping[str, Any]) -> str:
    pairs, bodies = {}, []
    for group, title in GROUPS.items():
        rows = []
        for arm in arms_of(study, group):
            played, skipped = (mean(arm, f"{kind}/test_full/mrr") for kind in ("played", "skipped"))
            if played is None or skipped is None:
                continue
            pair = (label(arm), played, skipped, f"gap {signed(played - skipped)}")
            pairs.setdefault(group in ("table1", "baseline"), []).append(pair)
            values = [
                (signed if "gap" in name else decimal)(mean(arm, f"{ranking}/{name}"))
                for ranking in ("test_full", "test")
                for name in ("gap_mrr", "auc", "skip@10")
            ]
            rows.append(page.texts([label(arm), *values]))
        if rows:
            bodies.append((title, rows))
    if not bodies:
        return ""
    end = max(max(pair[1:3]) for some in pairs.values() for pair in some)
    figures = [
        page.figure(
            plots.pairs(pairs[key], ("played", "skipped"), "MRR among all tracks", end),
            f"MRR of played and of skipped targets, {words}",
            "; ".join(
                f"{name}: played {decimal(played)}, skipped {decimal(skipped)}"
                for name, played, skipped, _ in pairs[key]
            ),
        )
        for key, words in ((True, "main arms"), (False, "other arms"))
        if key in pairs
    ]
    table = page.table(
        "Played and skipped targets by arm",
        ("arm", "gap", "AUC", "skip@10", "gap", "AUC", "skip@10"),
        bodies,
        [("", 1), ("all tracks", 3), ("sampled", 3)],
    )
    return (
        page.note(
            "A model that knows what is skipped ranks skipped targets lower: its gap (MRR of "
            "played less MRR of skipped targets) is wide, its AUC (how often a played target ranks "
            "above a skipped one; .5 is chance) high, and its skip@10 (share of skipped targets in "
            "its top 10) low beside its HR@10."
        )
        + page.figures(figures)
        + table
    )


def numbers(study: Mapping[str, Any]) -> str:
    metrics = {"HR@10": "hr@10", "NDCG@10": "ndcg@10", "MRR": "mrr"}
    bodies = [
        (
            title,
            [
                page.texts(
                    [
                        label(arm),
                        str(len(arm.get("seeds") or ())),
                        *(
                            mean_and_std(arm, f"{ranking}/{name}")
                            for ranking in RANKINGS
                            for name in metrics.values()
                        ),
                    ]
                )
                for arm in arms_of(study, group)
            ],
        )
        for group, title in GROUPS.items()
    ]
    groups = [("", 2), *((words, len(metrics)) for words in RANKINGS.values())]
    return page.table("All arms", ("arm", "seeds", *metrics, *metrics), bodies, groups)


def recommended(study: Mapping[str, Any]) -> str:
    kinds = {
        "coverage@10": (
            "share of all tracks in anyone's top 10",
            "Coverage",
            lambda v: f"{100 * v:.1f} %",
        ),
        "popularity@10": (
            "mean training plays of the top 10",
            "Popularity",
            lambda v: f"{v:,.1f}",
        ),
    }
    figures = []
    for name, (xlabel, caption, text) in kinds.items():
        values = [(label(arm), mean(arm, name)) for arm in arms_of(study)]
        rows = [plots.Bar(arm, v, text(v)) for arm, v in values if v is not None]
        if rows:
            said = "; ".join(f"{row.label} {row.text}" for row in rows)
            chart = plots.bars(rows, xlabel, shares=name.startswith("coverage"))
            figures.append(page.figure(chart, caption, said))
    if not figures:
        return ""
    return page.figures(figures) + page.note(
        "Means over seeds. Coverage: share of the catalogue that is in the top 10 of any test "
        "session. Popularity: how often, on average, a recommended track was heard in training."
    )
