"""What a study compares: arms, each a few fields away from the study's config."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skipjax.errors import ConfigError

GROUPS = ("table1", "ablation", "other")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
      key: unique among the arms, and the name of a folder.
      label: for tables and plots.
      group: "table1" (the paper's six), "ablation" or "other".
      against: key of the arm it is compared with, or None.
      tuned_as: key of the arm whose learning rate and weights it takes over; its own, if it is
        tuned itself.
      settings: the fields it sets, by dotted name.
    """

    key: str
    label: str
    group: str
    against: str | None
    tuned_as: str
    settings: Mapping[str, Any]

    @property
    def has_skip_term(self) -> bool:
        return bool(self.settings.get("loss.alpha"))


def arms_of(config: Any) -> list[Arm]:
    """Those of `config.study.arms`.

    Raises:
      ConfigError: a key that occurs twice or names no arm, an unknown group or field.
    """
    arms = []
    for entry in config.study.arms:
        entry = dict(entry)
        settings = dict(_flat(entry.pop("set")))
        arm = Arm(settings=settings, **{"tuned_as": entry["key"], **entry})
        for field in settings:
            value_of(config, field, f"the arm {arm.key!r} sets")
        arms.append(arm)
    keys = [arm.key for arm in arms]
    for arm in arms:
        if keys.count(arm.key) > 1:
            raise ConfigError(f"config.study.arms has {arm.key!r} more than once; rename one.")
        if arm.group not in GROUPS:
            raise ConfigError(f"the arm {arm.key!r} is of group {arm.group!r}; choose of {GROUPS}.")
        for field in ("against", "tuned_as"):
            named = getattr(arm, field)
            if named is not None and named not in keys:
                raise ConfigError(
                    f"the arm {arm.key!r} has {field} = {named!r}; name one of {', '.join(keys)}."
                )
    return arms


def chosen(arms: Sequence[Arm], keys: Sequence[str]) -> list[Arm]:
    """The arms of those keys and what they are compared with and tuned as; all, for no keys.

    Raises:
      ConfigError: an unknown key.
    """
    of_key = {arm.key: arm for arm in arms}
    wanted: set[str] = set()
    waiting = list(keys) or list(of_key)
    while waiting:
        key = waiting.pop()
        if key not in of_key:
            raise ConfigError(f"there is no arm {key!r}; there are {', '.join(of_key)}.")
        if key not in wanted:
            wanted.add(key)
            waiting += [name for name in (of_key[key].against, of_key[key].tuned_as) if name]
    return [arm for arm in arms if arm.key in wanted]


def configured(config: Any, name: str, settings: Mapping[str, Any]) -> Any:
    """The config of one run: the study's, without what concerns the study, with `settings`."""
    run = copy.deepcopy(config)
    with run.unlocked():
        del run.study
    run.name = f"{config.name}-{name}"
    for field, value in settings.items():
        *sections, last = field.split(".")
        section = run
        for part in sections:
            section = section[part]
        section[last] = value
    return run


def value_of(config: Any, field: str, why: str) -> Any:
    """The value of a dotted field; a ConfigError that begins with `why`, if there is none."""
    value = config
    for part in field.split("."):
        if not hasattr(value, "keys") or part not in value:
            raise ConfigError(f"{why} config.{field}, which does not exist.")
        value = value[part]
    return value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if hasattr(value, "items"):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
