"""A study in words, for Markdown and the HTML report alike: its numbers, arms and findings."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from skipjax.errors import DataError
from skipjax.ids import LEAVE_ONE_OUT
from skipjax.study.statistics import SIGNIFICANT

CUTOFFS = (1, 5, 10, 20)
RANKINGS = {"test": "sampled", "test_full": "all tracks"}
AMONG = {"test": "among sampled candidates", "test_full": "among all tracks"}
MEASURES = {
    "test/hr@10": "HR@10, sampled",
    "test_full/hr@10": "HR@10, all tracks",
    "test_full/mrr": "MRR, all tracks",
    "test_full/gap_mrr": "gap, all tracks",
}
HIT_RATES = ("test/hr@10", "test_full/hr@10")  # the measures that come first
GROUPS = {
    "table1": "The arms of Table 1",
    "baseline": "Baselines",
    "ablation": "Ablations",
    "other": "Other ways to use a skip",
}
MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """`main`, then `note` in small or in brackets; `best` is set in bold. Nothing is escaped."""

    main: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Encoder:
    """An S- arm of Table 1 and the arms that are measured against it, hidden before track.

    `names` holds their labels without the encoder's own name, as in "S-" and "S+ hidden".
    """

    title: str
    arms: tuple[dict[str, Any], ...]
    names: tuple[str, ...]


def plain(value: Any) -> str:
    """`value` as one line, without characters that steer a terminal, a browser or the line."""
    text = " ".join(str(MISSING if value is None else value).split())
    return "".join(c for c in text if unicodedata.category(c)[0] != "C")


def finite(value: Any) -> float | None:
    """`value` as a float, or None if there is no finite one."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def decimal(value: float | None, digits: int = 4) -> str:
    """.2821 as the paper has it; −.0123 with a true minus."""
    value = finite(value)
    if value is None:
        return MISSING
    text = f"{abs(value):.{digits}f}"
    negative = value < 0 and float(text) > 0
    return ("−" if negative else "") + re.sub(r"^0\.", ".", text)


def signed(value: float | None) -> str:
    """`decimal` with the sign of what is not 0."""
    text = decimal(value)
    plus = finite(value) is not None and value > 0 and text.strip(".0")
    return f"+{text}" if plus else text


def percent(value: float | None) -> str:
    """+3.1 % for .031."""
    value = finite(value)
    if value is None:
        return MISSING
    text = f"{abs(100 * value):.1f}"
    sign = "" if float(text) == 0 else "+" if value > 0 else "−"
    return f"{sign}{text} %"


def p_value(p: float | None) -> str:
    """p = .004, or p < .001."""
    p = finite(p)
    if p is None:
        return f"p {MISSING}"
    if p < 0.001:
        return "p < .001"
    return "p = 1" if p > 0.9995 else f"p = {decimal(p, 3)}"


def interval(values: Mapping[str, Any]) -> str:
    """.0010 to .0230."""
    return f"{decimal(values.get('low'))} to {decimal(values.get('high'))}"


def verdict(comparison: Mapping[str, Any]) -> str:
    """ "better", "worse" or "none": which way, if Holm's p is below .05."""
    difference, p = finite(comparison.get("difference")), finite(comparison.get("p_holm"))
    if difference is None or p is None or p >= SIGNIFICANT or difference == 0:
        return "none"
    return "better" if difference > 0 else "worse"


def arms_of(study: Mapping[str, Any], group: str | None = None) -> list[dict[str, Any]]:
    """The arms of a group, or all of them, in the order of the study.

    Raises:
      DataError: the study has no arms.
    """
    arms = study.get("arms")
    if not arms:
        raise DataError("the study has no arms; run `python -m skipjax study` to its end.")
    return [arm for arm in arms if group is None or arm.get("group") == group]


def trained_seeds(study: Mapping[str, Any]) -> str:
    """0, 1, 2: those of all arms but the baselines, which depend on none."""
    trained = [arm for arm in arms_of(study) if arm.get("group") != "baseline"]
    return ", ".join(map(str, sorted({seed for arm in trained for seed in arm.get("seeds") or ()})))


def label(arm: Mapping[str, Any]) -> str:
    return plain(arm.get("label") or arm["key"])


def _of_metric(arm: Mapping[str, Any], name: str, what: str) -> float | None:
    return finite(((arm.get("metrics") or {}).get(name) or {}).get(what))


def mean(arm: Mapping[str, Any], name: str) -> float | None:
    return _of_metric(arm, name, "mean")


def comparison(arm: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What `arm` is against its S- in the metric `name`; empty where that was not measured."""
    found = (arm.get("comparisons") or {}).get(name) or {}
    return found if finite(found.get("difference")) is not None else {}


def encoders(study: Mapping[str, Any]) -> list[Encoder]:
    """The encoders of Table 1, each with its S- first."""
    arms = arms_of(study, "table1")
    keys = {arm["key"] for arm in arms}
    found = []
    for base in arms:
        if base.get("against") in keys:
            continue
        others = [arm for arm in arms if arm.get("against") == base["key"]]
        members = (base, *sorted(others, key=lambda arm: "hidden" not in arm["key"]))
        title = re.sub(r"\s*S-$", "", label(base)) or label(base)
        names = tuple(label(arm).removeprefix(title).strip() or label(arm) for arm in members)
        found.append(Encoder(title, members, names))
    return found


def seeds_text(arms: Iterable[Mapping[str, Any]]) -> str:
    """3 to 5 seeds."""
    counts = sorted({len(arm.get("seeds") or ()) for arm in arms} - {0})
    if not counts:
        return f"{MISSING} seeds"
    numbers = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{numbers} seed" + ("" if counts == [1] else "s")


def mean_and_std(arm: Mapping[str, Any], name: str) -> str:
    """.2821 ± .0031, without ± for one seed."""
    std = _of_metric(arm, name, "std")
    text = decimal(mean(arm, name))
    return text if std is None or text == MISSING else f"{text} ± {decimal(std)}"


def main_rows(study: Mapping[str, Any], ranking: str) -> tuple[tuple[Cell, ...], ...]:
    """Rows HR@1 to HR@20 of the paper's Table 1, one column an arm in the order of `encoders`.

    The best of each encoder is marked; notes hold the increase over its S-.

    Args:
      study: the contents of study.json.
      ranking: "test" (sampled candidates) or "test_full" (all tracks).
    """
    found = encoders(study)
    rows = []
    for k in CUTOFFS:
        row = [Cell(f"HR@{k}")]
        for encoder in found:
            row += _beside_its_base(encoder.arms, f"{ranking}/hr@{k}")
        if any(cell.main != MISSING for cell in row[1:]):
            rows.append(tuple(row))
    return tuple(rows)


def _beside_its_base(arms: tuple[Mapping[str, Any], ...], name: str) -> list[Cell]:
    means = [mean(arm, name) for arm in arms]
    shown = [decimal(value) for value in means]
    numbers = [value for value in means if value is not None]
    # What looks equal is equally best; a single arm is no contest.
    best = decimal(max(numbers)) if len(numbers) > 1 else None
    cells = []
    for i, arm in enumerate(arms):
        note = ""
        if i and means[0] and means[i] is not None:
            note = percent(means[i] / means[0] - 1)
        cells.append(Cell(mean_and_std(arm, name), note, shown[i] == best))
    return cells


def headlines(study: Mapping[str, Any]) -> list[str]:
    """For each ranking, how many S+ arms of Table 1 beat their S- in HR@10."""
    lines = []
    for ranking, among in AMONG.items():
        found = [
            comparison(arm, f"{ranking}/hr@10")
            for encoder in encoders(study)
            for arm in encoder.arms[1:]
        ]
        found = [one for one in found if one]
        if not found:
            continue
        lines.append(f"HR@10 {among}: {_counted([verdict(one) for one in found])}.")
    return lines


def _counted(verdicts: list[str]) -> str:
    """of 4 S+ arms, 1 beats S-, 1 is worse than S- and for 2 no difference was found."""
    count = len(verdicts)
    arms = f"{count} S+ arm{'s' if count > 1 else ''}"
    better, worse, none = (verdicts.count(kind) for kind in ("better", "worse", "none"))
    if none == count:
        return f"no difference to S- was found for {arms}"
    parts = []
    if better:
        parts.append(f"{better} {'beats' if better == 1 else 'beat'} S-")
    if worse:
        parts.append(f"{worse} {'is' if worse == 1 else 'are'} worse than S-")
    if none:
        parts.append(f"for {none} no difference was found")
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"of {arms}, {listed}"


def sentences(arms: Iterable[Mapping[str, Any]], names: Iterable[str] = MEASURES) -> list[str]:
    """The study's plain sentence for each arm and measure that was compared."""
    names = tuple(names)
    found = [comparison(arm, name).get("sentence") for arm in arms for name in names]
    return [plain(sentence) for sentence in found if sentence]


def data_text(study: Mapping[str, Any]) -> str:
    """What the data are, and whether they are real."""
    kinds = {True: "synthetic sessions", False: "real sessions, not synthetic"}
    what = kinds.get(study.get("synthetic"), "it is not said whether they are real")
    parts = [f"{plain(study.get('source', 'unnamed data'))} ({what})"]
    for name in ("sessions", "tracks"):
        if finite(study.get(name)) is not None:
            parts.append(f"{study[name]:,} {name}")
    share = finite(study.get("skipped_targets"))
    if share is not None:
        parts.append(f"{100 * share:.1f} % of the test targets were skipped")
    if study.get("skipped_means"):
        parts.append(f"skipped means {plain(study['skipped_means'])}")
    if study.get("split", LEAVE_ONE_OUT) != LEAVE_ONE_OUT:
        parts.append(f"split {plain(study['split'])}")
    if finite(study.get("cold_targets")):
        parts.append(f"{100 * study['cold_targets']:.1f} % of the targets never seen in training")
    return ", ".join(parts)
