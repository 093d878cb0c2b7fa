"""All findings about a folder of sessions, as one JSON-able object."""

import dataclasses
from collections.abc import Callable
from typing import Any

from skipjax import __version__
from skipjax.audit import (
    counts,
    feedback,
    future,
    order,
    popularity,
    repeats,
    settings,
    signal,
    sizes,
    temporal,
    thresholds,
)
from skipjax.audit.data import Data
from skipjax.audit.finding import Finding, by_severity
from skipjax.data.inputs import Progress
from skipjax.data.sessions import Sessions
from skipjax.limits import fields

FORMAT_VERSION = 1
_FIELDS = tuple(field for field, _ in fields(settings.defaults()))


def audit(
    sessions: Sessions, config: Any, name: str, progress: Progress | None = None
) -> dict[str, Any]:
    """What training should know before it begins.

    The same sessions and config give the same result: what is sampled is so by fixed seeds.

    Args:
      sessions: as `Sessions.open` gives them.
      config: of the run to come, or `settings.defaults()`.
      name: of the data, for readers.
      progress: called with findings done, findings in all, and what is being looked at.

    Returns:
      `findings`, the worst first, each with `name`, `title`, `severity` ("serious", "warning",
      "note", "ok"), `sentence`, `numbers`, `advice` and `known` (False where the data cannot
      tell); and facts: `format`, `skipjax`, `name`, `source`, `synthetic`, `digest`, `split`,
      `skipped_means`, `config` and `thresholds`.

    Raises:
      ConfigError: a field of `config.data` that these sessions cannot be used with.
      DataError: it leaves no session.
    """
    progress = progress or (lambda done, total, what: None)
    progress(0, 1, "reading")
    data = Data.of(sessions, config)
    looks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("sizes", lambda: [counts.size(data), counts.lengths(data)]),
        ("feedback", lambda: [feedback.rule(data), feedback.skip_share(data)]),
        ("skips by position", lambda: [feedback.by_position(data)]),
        ("skips by context", lambda: [feedback.by_hour(data), *feedback.by_context(data)]),
        ("order", lambda: [order.order(data)]),
        ("duplicates", lambda: [order.duplicates(data)]),
        ("repeats", lambda: [repeats.repeats(data)]),
        ("time", lambda: _in_time(data)),
        ("popularity", lambda: [popularity.concentration(data), popularity.most_popular(data)]),
        ("the future", lambda: [future.leak(data)]),
        ("what the future is worth", lambda: [future.markov(data)]),
        ("signal in skips", lambda: [signal.signal(data)]),
    ]
    findings: list[Finding] = []
    for done, (what, look) in enumerate(looks):
        progress(done, len(looks), what)
        findings += look()
    progress(len(looks), len(looks), "done")
    return {
        "format": FORMAT_VERSION,
        "skipjax": __version__,
        "name": name,
        "source": sessions.info.get("source"),
        "synthetic": data.synthetic,
        "digest": data.split.digest,
        "split": config.data.split,
        "skipped_means": data.split.skipped_means,
        "config": {field: _plain(value) for field, value in fields(config) if field in _FIELDS},
        "thresholds": {key: value for key, value in vars(thresholds).items() if key.isupper()},
        "findings": [dataclasses.asdict(finding) for finding in by_severity(findings)],
    }


def _in_time(data: Data) -> list[Finding]:
    """What needs the split in time, which is large, and not kept."""
    period, split = temporal.test_period(data)
    return [period, temporal.cold(data, split), sizes.too_few(data, split)]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
