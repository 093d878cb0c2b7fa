"""An audit as one HTML file that stands alone: no scripts, no requests, light, dark and on paper.

Importing this module needs matplotlib, and says so if it is missing.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from skipjax.audit import sections
from skipjax.audit.finding import SEVERITIES, listed
from skipjax.data.inputs import counted
from skipjax.files import write_atomically
from skipjax.study.report import page

JSON_NAME, PAGE_NAME = "audit.json", "audit.html"
_CSS = """
.found { margin: 0; padding: 0; list-style: none; max-width: 48rem; }
.found li { margin: 1rem 0; padding-left: .9rem; border-left: .3rem solid var(--line); }
.found .is-serious { border-color: rgb(var(--down)); }
.found .is-warning { border-color: var(--warn); }
.found .is-note { border-color: rgb(var(--up)); }
.found h3, .found p { margin: .15rem 0; max-width: none; }
.severity { display: inline-block; margin-right: .5rem; padding: 0 .5rem; border-radius: 1rem;
  border: 1px solid currentColor; color: var(--muted); font-size: .75rem; font-weight: 600;
  line-height: 1.4; vertical-align: .1em; }
.is-serious .severity { color: rgb(var(--down)); }
.is-warning .severity { color: var(--warn); }
.is-note .severity { color: rgb(var(--up)); }
.advice { color: var(--muted); }
.found code { display: inline-block; max-width: 100%; font-size: .875em;
  overflow-wrap: anywhere; }
.verdict { margin: 1rem 0 0; font-size: 1.15rem; line-height: 1.4; }
"""


def write_report(audit: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Writes `report(audit)` to the file `path`, whole or not at all.

    Raises:
      OutputError: the file cannot be written.
    """
    write_atomically(path, report(audit))


def report(audit: Mapping[str, Any]) -> str:
    """The page of an audit: findings first, then charts and facts.

    The same audit gives the same bytes.

    Args:
      audit: the contents of audit.json.
    """
    parts = [("findings", "Findings", _findings(audit)), *sections.charts(audit)]
    parts += [("numbers", "All numbers", sections.numbers(audit))]
    parts += [("facts", "Facts", sections.facts(audit))]
    name, about = page.escape(audit["name"]), page.escape(sections.about(audit))
    lead = (
        f'<p class="lead"><strong>{name}</strong>: {about}</p>\n'
        f'<p class="verdict">{page.escape(verdict(audit))}</p>\n{_notice(audit)}'
    )
    return page.document(f"Data audit: {audit['name']}", "Data audit", lead, parts, _CSS)


def verdict(audit: Mapping[str, Any]) -> str:
    """1 serious finding, 2 warnings and 5 notes; 11 checks found nothing."""
    counts = dict.fromkeys(SEVERITIES, 0)
    for finding in audit["findings"]:
        counts[finding["severity"]] += 1
    names = {"serious": "serious finding", "warning": "warning", "note": "note"}
    parts = [counted(counts[kind], name) for kind, name in names.items() if counts[kind]]
    fine = f"{counted(counts['ok'], 'check')} found nothing to worry about."
    return f"{listed(parts)}; {fine}" if parts else fine


def _findings(audit: Mapping[str, Any]) -> str:
    items = [_item(finding) for finding in audit["findings"] if finding["severity"] != "ok"]
    fine = [_item(finding) for finding in audit["findings"] if finding["severity"] == "ok"]
    text = f'<ul class="found">{"".join(items)}</ul>' if items else ""
    if fine:
        text += f'<h3>Nothing to worry about</h3><ul class="found">{"".join(fine)}</ul>'
    return text


def _item(finding: Mapping[str, Any]) -> str:
    kind = finding["severity"]
    advice = finding["advice"]
    more = f'<p class="advice">{_with_code(advice)}</p>' if advice else ""
    return (
        f'<li class="is-{kind}"><h3><span class="severity">{kind}</span>'
        f"{page.escape(finding['title'])}</h3><p>{_with_code(finding['sentence'])}</p>{more}</li>"
    )


def _with_code(text: str) -> str:
    """Flags and fields as code, and no line that begins with "%"."""
    found = page.escape(text).replace(" %", "\u00a0%")
    return re.sub(r"(?:--|\b)config(?:\.\w+)+(?:=\w+)?|--\w+", r"<code>\g<0></code>", found)


def _notice(audit: Mapping[str, Any]) -> str:
    if not audit["synthetic"]:
        return ""
    return (
        '<p class="notice"><strong>Synthetic data.</strong> These sessions were made by a program, '
        "not by listeners.</p>\n"
    )
