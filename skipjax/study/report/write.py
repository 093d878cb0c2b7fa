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
    sections = [(name, title, body) for name, title, body in sections if body]
    links = "".join(
        f'<li><a href="#{name}">{page.escape(heading)}</a></li>' for name, heading, _ in sections
    )
    title = plain(study.get("name", "study"))
    body = "\n".join(
        f'<section id="{name}">\n<h2>{page.escape(heading)}</h2>\n{text}\n</section>'
        for name, heading, text in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # The browser itself refuses every request and script.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>Do skips help? {page.escape(title)}</title>\n'
        f"<style>{page.CSS}</style>\n</head>\n<body>\n<header>\n<h1>Do skips help?</h1>\n"
        f'<p class="lead">Study <strong>{page.escape(title)}</strong>: '
        f"{page.escape(data_text(study))}.</p>\n"
        f"{_notice(study)}</header>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n{body}\n</main>\n'
        "</body>\n</html>\n"
    )


def _notice(study: Mapping[str, Any]) -> str:
    if not study.get("synthetic"):
        return ""
    return (
        '<p class="notice"><strong>Synthetic data.</strong> These sessions were made by a program, '
        "not by listeners. They show how the method behaves, not what it would do on a real "
        "service.</p>\n"
    )
