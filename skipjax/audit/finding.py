"""A finding: a plain sentence, how much it matters, and the numbers behind it."""

import dataclasses
from typing import Any

NO_TIMES = "the data has no times of a known unit"
SEVERITIES = ("serious", "warning", "note", "ok")


@dataclasses.dataclass(frozen=True)
class Finding:
    """
    Attributes:
      name: the same in every audit, for programs.
      title: the same in words.
      severity: one of SEVERITIES.
      sentence: what was found, in plain words with the main numbers.
      numbers: JSON-able; all that the sentence and the charts are made of.
      advice: what to do about it, flags included; '' for nothing.
      known: False where the data cannot tell; the sentence then says why.
    """

    name: str
    title: str
    severity: str
    sentence: str
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    advice: str = ""
    known: bool = True

    def __post_init__(self):
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity is {self.severity!r}; choose one of {SEVERITIES}.")


def unknown(name: str, title: str, sentence: str, advice: str = "") -> Finding:
    """What this data cannot tell."""
    return Finding(name, title, "note", sentence, advice=advice, known=False)


def worst(*severities: str) -> str:
    return min(severities, key=SEVERITIES.index)


def graded(
    value: float,
    *,
    note: float | None = None,
    warning: float | None = None,
    serious: float | None = None,
) -> str:
    """The severity of the highest threshold that `value` reaches, else "ok"."""
    for name, least in (("serious", serious), ("warning", warning), ("note", note)):
        if least is not None and value >= least:
            return name
    return "ok"


def scarce(value: float, *, warning: float, serious: float) -> str:
    """The same of what there should be enough of: how bad it is that there is less."""
    return "serious" if value < serious else "warning" if value < warning else "ok"


def at_worst(most: str, severity: str) -> str:
    """`severity`, but no worse than `most`."""
    return most if worst(most, severity) != most else severity


def by_severity(findings: list[Finding]) -> list[Finding]:
    """The worst first, otherwise in order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def share(value: float) -> str:
    """19.6 %; what is not quite 0 or 1 does not look so."""
    percent = 100 * value
    if 0 < percent < 0.1:
        return "less than 0.1 %"
    if 99.9 < percent < 100:
        return "more than 99.9 %"
    text = f"{percent:.1f}".removesuffix(".0")
    return f"{text} %"


def listed(names: list[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
