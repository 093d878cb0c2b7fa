"""A study as one HTML file that stands alone: no scripts, no requests, light, dark and on paper.

Importing this module needs matplotlib, and says so if it is missing.
"""

import os
from collections.abc import Mapping
from typing import Any

from skipjax.files import write_atomically
from skipjax.study.report import breakdowns, differences, page, provenance, scores
from skipjax.study.wording import arms_of, data_text, plain


def write_report(study: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Writes `report(study)` to the file `path`, whole or not at all.

    Raises:
      DataError: the study has no arms.
      OutputError: the file cannot be written.
    """
    write_atomically(path, report(study))


def report(study: Mapping[str, Any]) -> str:
    """The page of a study: the answer first, then tables, charts and facts.

    The same study gives the same bytes. What is missing in it is left out.

    Args:
      study: the contents of study.json.

    Raises:
      DataError: the study has no arms.
    """
    arms_of(study)
    sections = [
        ("answer", "The answer", differences.answer(study)),
        ("table-1", "Table 1", scores.table1(study)),
        ("difference", "Difference to S-", differences.to_base(study)),
        ("hit-rates", "HR@k", scores.hit_rates(study)),
        ("played-skipped", "Played and skipped targets", scores.played_and_skipped(study)),
        ("ablations", "What makes the difference", differences.ablations(study)),
        ("numbers", "All arms in numbers", scores.numbers(study)),
        ("breakdowns", "Where it helps", breakdowns.by_context(study)),
        ("recommended", "What is recommended", scores.recommended(study)),
        ("training", "Training", provenance.training(study)),
        ("tuning", "Tuning", provenance.tuning(study)),
        ("facts", "Facts", provenance.facts(study)),
    ]
    title = plain(study.get("name", "study"))
    lead = (
        f'<p class="lead">Study <strong>{page.escape(title)}</strong>: '
        f"{page.escape(data_text(study))}.</p>\n{_notice(study)}"
    )
    return page.document(f"Do skips help? {title}", "Do skips help?", lead, sections)


def _notice(study: Mapping[str, Any]) -> str:
    if not study.get("synthetic"):
        return ""
    return (
        '<p class="notice"><strong>Synthetic data.</strong> These sessions were made by a program, '
        "not by listeners. They show how the method behaves, not what it would do on a real "
        "service.</p>\n"
    )
