"""The colours of the report's charts by day and by night."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours. Okabe and Ito's hues, which colour-blind readers tell apart, or near to them.

    `tones` colour a result (better, worse, none), `arms` the arms of an encoder from S- on, with
    markers and line styles of their own.
    """

    page: str
    ink: str
    muted: str
    line: str
    tones: Mapping[str, str]
    arms: tuple[str, ...]

    def colours(self) -> tuple[str, ...]:
        return (self.page, self.ink, self.muted, self.line, *self.tones.values(), *self.arms)


LIGHT = Theme(
    page="#ffffff",
    ink="#1b1f24",
    muted="#59636e",
    line="#d0d6dc",
    tones={"better": "#0072b2", "worse": "#c8500a", "none": "#8d96a0", "plain": "#59636e"},
    arms=("#1b1f24", "#b0408c", "#00785a", "#8a6100", "#0072b2"),
)
DARK = Theme(
    page="#14171b",
    ink="#e8ebee",
    muted="#a5aeb8",
    line="#3a424b",
    tones={"better": "#56b4e9", "worse": "#ff914d", "none": "#78828d", "plain": "#a5aeb8"},
    arms=("#e8ebee", "#ee9bd0", "#3fd0a0", "#e6c14a", "#56b4e9"),
)
_DARK_OF = dict(zip(LIGHT.colours(), DARK.colours(), strict=True))


def darker(svg: str) -> str:
    """The SVG with each colour of LIGHT, within tags, replaced by that of DARK."""
    return re.sub(
        "<[^>]*>",
        lambda tag: re.sub("#[0-9a-f]{6}", lambda found: _DARK_OF.get(found[0], found[0]), tag[0]),
        svg,
    )
