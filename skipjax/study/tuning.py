"""Learning rates and weights of the loss, chosen on validation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from skipjax.errors import ConfigError, DataError
from skipjax.study.arms import Arm, value_of

SELECTION = "valid/hr@10"  # what is chosen by
RATE, ALPHA, BETA = "optimizer.learning_rate", "loss.alpha", "loss.beta"

Settings = Mapping[str, Any]
Results = Mapping[str, Any] | None


def tune(
    config: Any, arms: Sequence[Arm], run: Callable[[list[tuple[Arm, Settings]]], list[Results]]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Chooses the learning rate, then α : β, of each arm that is tuned itself.

    Args:
      config: `config.study` has the grids.
      arms: what to tune, or to give what another arm is tuned to.
      run: trains arms with settings; the results of each, None where the loss was not finite.

    Returns:
      All that was tried, as study.json has it, and by key the settings chosen.

    Raises:
      ConfigError: the grids come to more runs than they may.
      DataError: an arm that none of the learning rates trains.
    """
    itself = [arm for arm in arms if arm.tuned_as == arm.key]
    rates, ratios = grids(config, arms)
    tried: list[dict[str, Any]] = []
    best: dict[str, dict[str, Any]] = {}
    for stage in (rates, ratios):
        wanted = [
            (arm, {**arm.settings, **_taken(arm, arm, best), **point})
            for arm in itself
            for point in stage.get(arm.key, [])
        ]
        for (arm, settings), results in zip(wanted, run(wanted), strict=True):
            point = {field: value_in(config, settings, field) for field in (RATE, ALPHA, BETA)}
            found = {field.rpartition(".")[2]: value for field, value in point.items()}
            score = None if results is None else results[SELECTION]
            tried.append({"arm": arm.key, **found, SELECTION: score, "chosen": False})
        for arm in itself:
            own = [one for one in tried if one["arm"] == arm.key]
            finite = [one for one in own if one[SELECTION] is not None]
            if own and not finite:
                raise DataError(
                    f"no learning rate of {tuple(config.study.learning_rates)} trains the arm "
                    f"{arm.key!r}: each loss left the finite numbers; add lower ones."
                )
            if finite:
                best[arm.key] = max(finite, key=lambda one: one[SELECTION])
    for one in best.values():
        one["chosen"] = True
    of_key = {arm.key: arm for arm in arms}
    return tried, {arm.key: _taken(arm, of_key[arm.tuned_as], best) for arm in arms}


def _taken(arm: Arm, like: Arm, best: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What an arm takes over from the one it is tuned as: no more than both leave open.

    Weights only if it has the skip term itself, and nothing that it sets to another value.
    """
    if like.key not in best:
        return {}
    groups = [(RATE,), (ALPHA, BETA)] if arm.has_skip_term else [(RATE,)]
    return {
        field: best[like.key][field.rpartition(".")[2]]
        for group in groups
        for field in group
        if all(arm.settings.get(one) == like.settings.get(one) for one in group)
    }


def grids(
    config: Any, arms: Sequence[Arm]
) -> tuple[dict[str, list[Settings]], dict[str, list[Settings]]]:
    """Learning rates, and then weights, to try of each arm that is tuned itself.

    Raises:
      ConfigError: they come to more runs than they may.
    """
    itself = [arm for arm in arms if arm.tuned_as == arm.key]
    different = dict.fromkeys
    rates = {
        arm.key: [{RATE: rate} for rate in different(config.study.learning_rates)] for arm in itself
    }
    ratios = {
        arm.key: [{ALPHA: alpha, BETA: beta} for alpha, beta in different(config.study.ratios)]
        for arm in itself
        if arm.has_skip_term
    }
    number = sum(map(len, [*rates.values(), *ratios.values()]))
    if number > config.study.most_tuning_runs:
        raise ConfigError(
            f"the grids of config.study come to {number} runs, more than "
            f"config.study.most_tuning_runs ({config.study.most_tuning_runs}); shorten "
            "learning_rates or ratios."
        )
    return rates, ratios


def value_in(config: Any, settings: Settings, field: str) -> Any:
    """A field's value where `settings` are set upon `config`."""
    return settings[field] if field in settings else value_of(config, field, "the study reads")
