"""A study as Markdown: tables, sentences and facts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skipjax.study.wording import (
    GROUPS,
    HIT_RATES,
    MEASURES,
    MISSING,
    RANKINGS,
    Cell,
    arms_of,
    comparison,
    data_text,
    encoders,
    headlines,
    interval,
    label,
    main_rows,
    mean_and_std,
    p_value,
    plain,
    seeds_text,
    sentences,
    signed,
    trained_seeds,
    verdict,
)


@dataclass(frozen=True)
class Table:
    """Rows of cells, as many as there are names in `head`; the first column names the row."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def table1(study: Mapping[str, Any]) -> str:
    """A study in Markdown: Table 1 in the paper's layout, the other arms, sentences and facts.

    Args:
      study: the contents of study.json; what is missing there is left out or shown as –.

    Returns:
      Text without headings above the fourth level, that ends in a newline.

    Raises:
      DataError: the study has no arms.
    """
    everyone = arms_of(study)
    main = arms_of(study, "table1")
    name = escape(study.get("name", "study"))
    blocks = [f"**{name}{', synthetic data' if study.get('synthetic') else ''}**"]
    if main:
        blocks.append(_markdown(_main_table(study)))
        blocks.append(
            f"Mean ± sample standard deviation over {seeds_text(main)}; in brackets the increase "
            "over S- of the same encoder; best of the encoder in bold."
        )
    for group, title in GROUPS.items():
        arms = arms_of(study, group)
        if arms:
            blocks.append(f"#### {title}")
            blocks.append(_markdown(_arms_table(study, group)))
    blocks.append(
        "Gap: MRR of played targets less MRR of skipped ones. AUC: how often a played target ranks "
        "above a skipped one (both among all tracks). Differences with their 95 % "
        "interval and p after Holm's correction, bold below .05."
    )
    if study.get("family"):
        blocks.append(escape(study["family"]))
    said = headlines(study)
    said += sentences(main)
    others = [arm for arm in everyone if arm.get("group") != "table1"]
    said += sentences(others, HIT_RATES)
    if said:
        blocks.append("#### In words")
        blocks.append("\n".join(f"- {escape(sentence)}" for sentence in said))
    blocks.append(_facts(study))
    return "\n\n".join(blocks) + "\n"


def _main_table(study: Mapping[str, Any]) -> Table:
    head = ("", *(label(arm) for encoder in encoders(study) for arm in encoder.arms))
    rows = [
        (Cell(f"{first.main}, {words}"), *others)
        for ranking, words in RANKINGS.items()
        for first, *others in main_rows(study, ranking)
    ]
    return Table(head, tuple(rows))


def _arms_table(study: Mapping[str, Any], group: str) -> Table:
    """One row an arm: what it reaches, and its differences to what it is compared with."""
    arms = arms_of(study, group)
    labels = {arm["key"]: label(arm) for arm in arms_of(study)}
    columns = {
        "HR@10, sampled": "test/hr@10",
        "HR@10, all tracks": "test_full/hr@10",
        "MRR, all tracks": "test_full/mrr",
        "gap": "test_full/gap_mrr",
        "AUC": "test_full/auc",
    }
    differences = [name for name in HIT_RATES if any(comparison(arm, name) for arm in arms)]
    head = ["arm", "seeds", *columns]
    if differences:
        head += ["against", *(f"difference in {MEASURES[name]}" for name in differences)]
    rows = []
    for arm in arms:
        row = [Cell(label(arm)), Cell(str(len(arm.get("seeds") or ())))]
        row += [Cell(mean_and_std(arm, name)) for name in columns.values()]
        if differences:
            row.append(Cell(labels.get(arm.get("against"), MISSING)))
        for name in differences:
            found = comparison(arm, name)
            if found:
                note = f"{interval(found)}; {p_value(found.get('p_holm'))}"
                row.append(Cell(signed(found["difference"]), note, verdict(found) != "none"))
            else:
                row.append(Cell(MISSING))
        rows.append(tuple(row))
    return Table(tuple(head), tuple(rows))


def _facts(study: Mapping[str, Any]) -> str:
    parts = [f"Data: {escape(data_text(study))}"]
    if study.get("digest"):
        parts.append(f"digest {_code(study['digest'])}")
    parts.append(f"seeds {trained_seeds(study)}")
    if study.get("command"):
        parts.append(f"command {_code(study['command'])}")
    environment = study.get("environment") or {}
    parts += [f"{escape(name)} {escape(value)}" for name, value in environment.items()]
    return "; ".join(parts) + "."


def escape(text: str) -> str:
    """`text` so that Markdown shows it as it is, also inside a table."""
    text = re.sub(r"([\\`*\[\]<>|~&$])", r"\\\1", plain(text))
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside a word it means nothing
    return re.sub(r"^(#|[-+](?=\s))|^(\d+)([.)])(?=\s)", r"\2\\\1\3", text)


def _code(text: str) -> str:
    """A code span around `text`, which may have backticks of its own."""
    text = plain(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _cell(cell: Cell) -> str:
    text = f"**{escape(cell.main)}**" if cell.best else escape(cell.main)
    return f"{text} ({escape(cell.note)})" if cell.note else text


def _markdown(table: Table) -> str:
    lines = [[escape(name) for name in table.head]]
    lines.append(["---", *["---:"] * (len(table.head) - 1)])
    lines += [[_cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
