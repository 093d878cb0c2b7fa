"""Pieces of the report's HTML, and its style sheet."""

import base64
import html
from collections.abc import Sequence
from typing import Any

from skipjax.study.report.drawing import Picture
from skipjax.study.wording import Cell, plain

PARTS = Sequence[tuple[str, str, str]]  # of a page: id, heading, HTML
MARKS = {"better": "▲", "worse": "▼", "none": "●"}
WORDS = {"better": "better", "worse": "worse", "none": "no difference found"}


def escape(text: Any) -> str:
    return html.escape(plain(text))


def document(title: str, heading: str, lead: str, parts: PARTS, css: str = "") -> str:
    """A whole page that needs nothing else, and may fetch nothing.

    Args:
      title: of the browser's tab.
      heading: above all.
      lead: HTML that follows it.
      parts: those without HTML are left out; a list of links leads to the others.
      css: added to the style sheet.
    """
    parts = [part for part in parts if part[2]]
    links = "".join(
        f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in parts
    )
    body = "\n".join(
        f'<section id="{name}">\n<h2>{escape(heading)}</h2>\n{text}\n</section>'
        for name, heading, text in parts
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # The browser itself refuses every request and script.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
        f"<style>{CSS}{css}</style>\n</head>\n<body>\n<header>\n<h1>{escape(heading)}</h1>\n"
        f'{lead}</header>\n<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def mark(kind: str) -> str:
    return f'<span class="mark {kind}" role="img" aria-label="{WORDS[kind]}">{MARKS[kind]}</span>'


def scroll(body: str, name: str) -> str:
    """A box that scrolls sideways by itself, also by keyboard."""
    return (
        f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">{body}</div>'
    )


def th(text: str) -> str:
    return f'<th scope="row">{escape(text)}</th>'


def td(cell: Cell) -> str:
    main = f"<strong>{escape(cell.main)}</strong>" if cell.best and cell.main else escape(cell.main)
    return f"<td>{main}{f'<small>{escape(cell.note)}</small>' if cell.note else ''}</td>"


def cells(row: Sequence[Cell]) -> list[str]:
    return [th(row[0].main), *(td(cell) for cell in row[1:])]


def texts(row: Sequence[Any]) -> list[str]:
    return cells([Cell(plain(text)) for text in row])


def table(
    name: str,
    head: Sequence[str],
    bodies: Sequence[tuple[str, Sequence[Sequence[str]]]],
    groups: Sequence[tuple[str, int]] = (),
    kind: str = "",
    caption: str = "",
) -> str:
    """A table in a box that scrolls sideways; "" without rows.

    Args:
      name: for those who do not see it.
      head: names of the columns.
      bodies: groups of rows, each a title or "" and rows of HTML cells; empty ones are left out.
      groups: names above the columns with the number of columns that each spans, all in all.
      kind: a class of the style sheet.
      caption: stands above the table, if not "".
    """
    if not any(rows for _, rows in bodies):
        return ""
    parts = [f"<caption>{escape(caption)}</caption>"] if caption else []
    above = "".join(
        f'<th scope="colgroup" colspan="{span}">{escape(text)}</th>'
        if text
        else f'<td colspan="{span}"></td>'
        for text, span in groups
    )
    names = "".join(
        f'<th scope="col">{escape(text)}</th>' if text else "<td></td>" for text in head
    )
    parts.append(f"<thead>{f'<tr>{above}</tr>' if above else ''}<tr>{names}</tr></thead>")
    for title, rows in bodies:
        if not rows:
            continue
        first = (
            f'<tr class="group"><th scope="rowgroup" colspan="{len(head)}">'
            f"<span>{escape(title)}</span></th></tr>"
        )
        inside = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
        parts.append(f"<tbody>{first if title else ''}{inside}</tbody>")
    attribute = f' class="{kind}"' if kind else ""
    return scroll(f"<table{attribute}>{''.join(parts)}</table>", name)


def _uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def figure(picture: Picture, caption: str, description: str) -> str:
    # Not <picture>: Chromium prints the source that the screen has, light ink on white paper.
    images = "".join(
        f'<img class="{kind}" src="{_uri(svg)}" width="{picture.width}" '
        f'height="{picture.height}" alt="{escape(f"{caption}. {description}.")}">'
        for kind, svg in (("light", picture.light), ("dark", picture.dark))
    )
    return f"<figure><figcaption>{escape(caption)}</figcaption>{images}</figure>"


def figures(figures: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>' if figures else ""


CSS = """
:root {
  color-scheme: light dark;
  --page: #fff; --ink: #1b1f24; --muted: #59636e; --line: #d0d6dc; --soft: #f3f5f7;
  --up: 0 114 178; --down: 200 80 10; --warn: #8a5200; --warn-page: #fff5e2; --link: #005ea3;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --ink: #e8ebee; --muted: #a5aeb8; --line: #3a424b; --soft: #1e2328;
    --up: 86 180 233; --down: 255 145 77; --warn: #ffcf87; --warn-page: #33270f; --link: #7cc4ff;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 4rem;
  background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: break-word;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 3rem 0 .75rem; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
h3::first-letter { text-transform: uppercase; }
p, ul, dl, .note { max-width: 44rem; }
a { color: var(--link); }
.lead { margin: 0; color: var(--muted); }
.lead strong { color: var(--ink); }
.notice {
  margin: 1rem 0 0; padding: .6rem .9rem; border-left: .3rem solid var(--warn);
  background: var(--warn-page);
}
.notice strong { color: var(--warn); }
.headline { font-size: 1.15rem; line-height: 1.4; margin: .4rem 0; }
.note { color: var(--muted); font-size: .875rem; margin: .75rem 0; }
nav { margin-top: 1.25rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: 0; padding: 0;
  max-width: none; list-style: none; font-size: .9rem; }
nav a { display: inline-block; padding: .2rem 0; }
.said { margin: .25rem 0; padding: 0; list-style: none; }
.said li { display: grid; grid-template-columns: 1.5rem minmax(0, 1fr); padding: .2rem 0; }
.said li span::first-letter { text-transform: uppercase; }
.said .mark { line-height: 1.9; }
.mark { font-size: .8em; }
.mark.better { color: rgb(var(--up)); }
.mark.worse { color: rgb(var(--down)); }
.mark.none { color: var(--muted); }
.scroll { overflow-x: auto; margin: .5rem 0; }
.scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
caption::first-letter, figcaption::first-letter { text-transform: uppercase; }
th, td { padding: .35rem .7rem; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; font-weight: 600; white-space: normal; min-width: 4.5rem; }
thead th[colspan] { text-align: center; white-space: nowrap; }
thead td { border-bottom: 0; }
th:first-child, thead tr:last-child > :first-child { text-align: left; padding-left: 0; }
tbody th { position: sticky; left: 0; background: var(--page); font-weight: 400;
  white-space: normal; min-width: 7rem; max-width: 16rem; overflow-wrap: break-word; }
.narrow tbody th { min-width: 3.5rem; white-space: nowrap; }
tbody .group th { position: static; max-width: none; padding-top: 1rem; font-weight: 600; }
.group span { position: sticky; left: 0; display: inline-block; }
.group span::first-letter { text-transform: uppercase; }
td small { display: block; color: var(--muted); font-size: .8rem; }
.matrix td small { color: inherit; }
.matrix .mark { color: inherit; }
.words th, .words td { text-align: left; }
.words td { white-space: normal; min-width: 5rem; overflow-wrap: anywhere; }
.words td:last-child { min-width: 16rem; }
.figures { display: grid; gap: 1.5rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: .5rem 0 0; max-width: 30rem; }
figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .25rem; }
img { width: 100%; height: auto; }
.light { display: block; }
.dark { display: none; }
@media screen and (prefers-color-scheme: dark) {
  .light { display: none; }
  .dark { display: block; }
}
details { margin: .75rem 0; }
summary { cursor: pointer; padding: .25rem 0; color: var(--link); }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) minmax(0, 1fr);
  gap: .25rem 1rem; margin: 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { margin: 0; padding: .75rem; background: var(--soft); font-size: .85rem; }
.scroll:has(pre) { background: var(--soft); }
@media (min-width: 48rem) { tbody th { min-width: 12rem; } }
@media (max-width: 30rem) {
  table { font-size: .8125rem; }
  th, td { padding: .3rem .4rem; }
  thead th { min-width: 3.5rem; }
  tbody th { min-width: 6rem; max-width: 7.5rem; }
}
@media print {
  :root { color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, summary { display: none; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; }
  tbody th { position: static; }
  h2, h3, figcaption { break-after: avoid; }
  figure, tr, li { break-inside: avoid; }
  .figures { grid-template-columns: 1fr 1fr; }
  img { width: auto; max-width: 100%; max-height: 22cm; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
