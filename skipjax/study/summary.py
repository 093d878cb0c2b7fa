"""A study as one JSON object, and its sessions as one long table."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from skipjax.errors import ConfigError, DataError
from skipjax.study import measures, statistics
from skipjax.study.measures import Facts, Outcome

COMPARED = ("test/hr@10", "test_full/hr@10", "test_full/mrr", "test_full/gap_mrr")
CUTOFFS = (1, 2, 3, 5, 10, 20, 50, 100)
BROKEN_DOWN = ("test/hr@10", "test_full/hr@10")
BREAKDOWN_COMPARED = "test_full/hr@10"
_GAP = {
    "test_full/gap_mrr": "test_full/mrr"
}  # contrasts of played and skipped targets, and of what


def summarise(
    facts: Facts,
    outcomes: Sequence[Outcome],
    arms: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """All that a study found, as study.json holds it.

    Args:
      facts: of the S test sessions.
      outcomes: of the arms, in any order.
      arms: key, label, group, against (a key or None), settings and curves of each, in the order to
        show them.
      about: name, source, synthetic, digest, split, skipped_means, command, environment and
        tuning; what is missing is left out.
      resamples: of the comparisons.
      seed: of the same.

    Returns:
      Plain dicts, lists, strings and numbers; None stands where there is no number. Numbers have 12
      significant digits, fewer than two machines' sums agree on.

    Raises:
      ConfigError: an arm that is against an unknown one or itself, or a key that occurs twice.
      DataError: an arm without an outcome, or an outcome of other sessions or another catalogue.
    """
    of_key = _by_key(outcomes, arms)
    for outcome in outcomes:
        measures.require_same_sessions(outcome, facts)
    comparisons = _comparisons(facts, of_key, arms, resamples, seed)
    breakdowns = _breakdowns(facts, of_key, arms, resamples, seed)
    found = {
        **about,
        "sessions": facts.num_sessions,
        "tracks": outcomes[0].num_tracks,
        "skipped_targets": facts.target_skipped.mean(),
        "cold_targets": (facts.popularity == 0).mean(),
        "family": _family(comparisons),
        "arms": [
            {
                "key": arm["key"],
                "label": arm["label"],
                "group": arm["group"],
                "against": arm["against"],
                "seeds": of_key[arm["key"]].seeds,
                "settings": arm["settings"],
                "metrics": _metrics(of_key[arm["key"]], facts),
                "hr_at_k": {
                    "k": CUTOFFS,
                    **{
                        prefix: measures.hr_at(getattr(of_key[arm["key"]], field), CUTOFFS)
                        for prefix, field in measures.RANKINGS.items()
                    },
                },
                "comparisons": comparisons[arm["key"]],
                "breakdown": breakdowns[arm["key"]],
                "curves": arm["curves"],
            }
            for arm in arms
        ],
    }
    return _jsonable(found)


def sessions_table(
    session_ids: pa.Array,
    targets: np.ndarray | pa.Array,
    facts: Facts,
    outcomes: Iterable[Outcome],
) -> pa.Table:
    """One row for each session, arm and seed, for whoever wants to compute something else.

    Args:
      session_ids: [S], of the test in the order of the split.
      targets: [S] ids of the targets, best as in the source.
      facts: of the sessions.
      outcomes: of the arms.

    Returns:
      session_id, arm, seed, target, target_skipped, rank_sampled, rank_full, position,
      skips_before, popularity and the context columns, those whose name is taken as context.NAME.
      Ordered by arm and seed as given, then by session. The sessions' columns are in memory once.
    """
    constant = {
        "session_id": session_ids,
        "target": pa.array(targets),
        "target_skipped": pa.array(facts.target_skipped),
        "position": pa.array(facts.position),
        "skips_before": pa.array(facts.skips_before),
        "popularity": pa.array(facts.popularity),
    }
    taken = {*_COLUMNS}
    for name, column in facts.context.items():
        constant[f"context.{name}" if name in taken else name] = pa.array(column, from_pandas=True)
    outcomes = list(outcomes)
    keys = pa.array([outcome.key for outcome in outcomes])
    parts = []
    for i, outcome in enumerate(outcomes):
        code = pa.array(np.full(facts.num_sessions, i, np.int32))
        arm = pa.DictionaryArray.from_arrays(code, keys)
        for j, seed in enumerate(outcome.seeds):
            own = {
                "arm": arm,
                "seed": pa.array(np.full(facts.num_sessions, seed, np.int64)),
                "rank_sampled": pa.array(outcome.sampled[j]),
                "rank_full": pa.array(outcome.full[j]),
            }
            columns = constant | own
            order = [*_COLUMNS, *(name for name in constant if name not in taken)]
            parts.append(pa.table({name: columns[name] for name in order}))
    return pa.concat_tables(parts)


_COLUMNS = (
    "session_id",
    "arm",
    "seed",
    "target",
    "target_skipped",
    "rank_sampled",
    "rank_full",
    "position",
    "skips_before",
    "popularity",
)


def _by_key(outcomes: Sequence[Outcome], arms: Sequence[Mapping[str, Any]]) -> dict[str, Outcome]:
    keys = [arm["key"] for arm in arms]
    of_key = {outcome.key: outcome for outcome in outcomes}
    if len({*keys}) != len(keys) or len(of_key) != len(outcomes):
        raise ConfigError(f"the arms {keys} do not have a key of their own each; rename some.")
    if missing := [key for key in keys if key not in of_key]:
        raise DataError(f"the arms {missing} have no outcome; finish their runs first.")
    for arm in arms:
        if arm["against"] is not None and arm["against"] not in {*keys} - {arm["key"]}:
            raise ConfigError(
                f"the arm {arm['key']!r} is against {arm['against']!r}; name one of the others: "
                f"{', '.join(keys)}."
            )
    if len({outcome.num_tracks for outcome in outcomes}) > 1:
        raise DataError(
            "the outcomes are of catalogues of different sizes; give those of one split."
        )
    return of_key


def _metrics(outcome: Outcome, facts: Facts) -> dict[str, Any]:
    return {
        name: {
            "mean": values.mean(),
            "std": values.std(ddof=1) if len(values) > 1 else None,
            "values": values,
        }
        for name, values in measures.measure(outcome, facts).items()
    }


def _comparisons(facts, of_key, arms, resamples, seed) -> dict[str, dict[str, dict[str, Any]]]:
    """{key: {measure: comparison}}, corrected over the arms for each measure."""
    found: dict[str, dict[str, dict[str, Any]]] = {arm["key"]: {} for arm in arms}
    label = {arm["key"]: arm["label"] for arm in arms}
    paired = [arm for arm in arms if arm["against"] is not None]
    skipped = facts.target_skipped
    can_contrast = min(skipped.sum(), (~skipped).sum()) >= 2
    for name in COMPARED:
        if not paired or (name in _GAP and not can_contrast):
            continue
        contrast = ~skipped if name in _GAP else None
        compare = _comparer(of_key, paired, _GAP.get(name, name), contrast, resamples, seed)
        results = [compare(arm) for arm in paired]
        adjusted = statistics.holm(np.array([result.p for result in results]))
        for arm, result, p_holm in zip(paired, results, adjusted, strict=True):
            found[arm["key"]][name] = {
                "difference": result.difference,
                "relative": result.relative,
                "low": result.low,
                "high": result.high,
                "relative_low": result.relative_low,
                "relative_high": result.relative_high,
                "p": result.p,
                "p_holm": p_holm,
                "sentence": statistics.sentence(
                    arm["label"],
                    label[arm["against"]],
                    measures.spoken(name),
                    result,
                    float(p_holm),
                ),
            }
    return found


def _breakdowns(facts, of_key, arms, resamples, seed) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {arm["key"]: [] for arm in arms}
    paired = [arm for arm in arms if arm["against"] is not None]
    names = BROKEN_DOWN
    values = {
        name: {key: measures.session_values(of_key[key], name) for key in found} for name in names
    }
    for by, value, mask in measures.groups(facts):
        size = int(mask.sum())
        compare = None
        if paired and size >= measures.RARE_SESSIONS:
            compare = _comparer(
                of_key, paired, BREAKDOWN_COMPARED, None, resamples, seed, within=mask
            )
        for arm in arms:
            comparison = {}
            if compare and arm["against"] is not None:
                result = compare(arm)
                comparison[BREAKDOWN_COMPARED] = {
                    "difference": result.difference,
                    "low": result.low,
                    "high": result.high,
                }
            found[arm["key"]].append(
                {
                    "by": by,
                    "value": value,
                    "sessions": size,
                    **{name: values[name][arm["key"]][:, mask].mean() for name in names},
                    "comparison": comparison,
                }
            )
    return found


def _comparer(of_key, paired, name, contrast, resamples, seed, within=None):
    """A function from an arm to its comparison, all of one resampling, which is what costs."""
    keys = list(dict.fromkeys(key for arm in paired for key in (arm["key"], arm["against"])))
    values = [measures.session_values(of_key[key], name) for key in keys]
    if within is not None:
        values = [some[:, within] for some in values]
    ends = np.cumsum([len(some) for some in values])
    runs = {
        key: slice(end - len(some), end) for key, some, end in zip(keys, values, ends, strict=True)
    }
    drawn = statistics.resample(
        np.concatenate(values), contrast=contrast, resamples=resamples, seed=seed
    )

    def compare(arm):
        of_arm, of_base = (drawn.runs(runs[arm[field]]) for field in ("key", "against"))
        return statistics.compare_resampled(of_arm, of_base, seed=seed)

    return compare


def _family(comparisons: Mapping[str, Mapping[str, Any]]) -> str:
    count = sum(1 for found in comparisons.values() if found)
    if not count:
        return "No arm is compared with another, so nothing is corrected."
    if count == 1:
        return (
            "One arm is compared with its base, so there is nothing to correct; the "
            f"{len(COMPARED)} measures are not corrected for one another."
        )
    return (
        f"Holm's correction runs, for each of the {len(COMPARED)} measures on its own, over all "
        f"{count} comparisons of an arm with its base in this study, whatever their group. The "
        "measures are not corrected for one another, and the breakdowns not at all."
    )


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.12g}") if math.isfinite(value) else None
    return value
