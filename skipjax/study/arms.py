"""What a study compares: arms, each a few fields away from the study's config."""

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from skipjax.errors import ConfigError
from skipjax.limits import did_you_mean, fields, wanted
from skipjax.study.baselines import BASELINES

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
      ConfigError: an entry that is not an arm, a key that occurs twice or names none, an unknown
        group, or a field that does not exist, that may not have its value or that all arms must
        share.
    """
    arms = [_arm(entry) for entry in config.study.arms]
    of_key = {arm.key: arm for arm in arms}
    for arm in arms:
        if [one.key for one in arms].count(arm.key) > 1 or arm.key in BASELINES:
            raise ConfigError(
                f"config.study.arms has {arm.key!r}, which is taken already; rename it."
            )
        if not re.fullmatch(r"\w[\w.-]*", arm.key):
            raise ConfigError(
                f"config.study.arms has {arm.key!r}, which is no name of a folder; use letters, "
                "digits, '_', '-' and '.'."
            )
        if arm.group not in GROUPS:
            raise ConfigError(f"the arm {arm.key!r} is of group {arm.group!r}; choose of {GROUPS}.")
        if arm.against not in {None, *of_key} - {arm.key}:
            raise ConfigError(
                f"the arm {arm.key!r} has against = {arm.against!r}; name one of "
                f"{', '.join(key for key in of_key if key != arm.key)}, or None."
            )
        like = of_key.get(arm.tuned_as)
        if like is None or like.tuned_as != like.key:
            raise ConfigError(
                f"the arm {arm.key!r} has tuned_as = {arm.tuned_as!r}; name one that is tuned "
                "itself."
            )
        for field in arm.settings:
            value_of(config, field, f"the arm {arm.key!r} sets")
            check_value(f"the arm {arm.key!r} sets", field, arm.settings[field])
            if field.startswith(_SHARED) and field not in _NOT_SHARED:
                raise ConfigError(
                    f"the arm {arm.key!r} sets config.{field}, but arms can only be compared if "
                    "they share it; set it for all, with a flag."
                )
    return arms


# So that all arms rank the same targets among the same candidates.
_SHARED, _NOT_SHARED = ("data.", "eval.", "seed", "name", "study."), ("data.labels",)


def _arm(entry: Mapping[str, Any]) -> Arm:
    known = {field.name for field in dataclasses.fields(Arm)} - {"settings"} | {"set"}
    entry = {"set": {}, "tuned_as": dict(entry).get("key"), **entry}
    if entry.keys() != known:
        wrong = sorted(map(str, entry.keys() ^ known))
        raise ConfigError(
            f"config.study.arms has an entry {entry.get('key')!r} with too few or unknown fields "
            f"({', '.join(wrong)}); give {', '.join(sorted(known))}."
        )
    settings = entry.pop("set")
    if not hasattr(settings, "items"):
        raise ConfigError(
            f"the arm {entry['key']!r} has set = {settings!r}; it must be a dict of sections, each "
            "a dict of fields."
        )
    for name, value in entry.items():
        if not isinstance(value, str) and (name, value) != ("against", None):
            raise ConfigError(f"the arm {entry['key']!r} has {name} = {value!r}; it must be text.")
    return Arm(settings=dict(fields(settings)), **entry)


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
            hint = did_you_mean(key, of_key)
            raise ConfigError(f"there is no arm {key!r}; there are {', '.join(of_key)}.{hint}")
        if key not in wanted:
            wanted.add(key)
            waiting += [name for name in (of_key[key].against, of_key[key].tuned_as) if name]
    return [arm for arm in arms if arm.key in wanted]


def checked(config: Any, keys: Sequence[str], check: Callable[[Any], Any]) -> list[Arm]:
    """The `chosen` arms, after `check` of the config of each.

    So a mistake in the last one does not wait for the others to be trained.

    Raises:
      ConfigError: as `arms_of`, `chosen` and `check`, with the arm.
    """
    arms = chosen(arms_of(config), keys)
    for arm in arms:
        try:
            check(configured(config, arm.key, arm.settings))
        except ConfigError as error:
            raise ConfigError(f"the arm {arm.key!r}: {error}") from None
    return arms


def configured(config: Any, name: str, settings: Mapping[str, Any]) -> Any:
    """The config of one run: the study's, without what concerns the study, with `settings`.

    Raises:
      ConfigError: a value that a field may not have.
    """
    run = copy.deepcopy(config)
    with run.unlocked():
        del run.study
    run.name = f"{config.name}-{name}"
    for field, value in settings.items():
        check_value(f"{run.name} sets", field, value)
        *sections, last = field.split(".")
        section = run
        for part in sections:
            section = section[part]
        section[last] = value
    return run


def check_value(who: str, field: str, value: Any) -> None:
    """Raises a ConfigError that begins with `who`, if the field may not have that value."""
    if instead := wanted(field, value):
        raise ConfigError(f"{who} config.{field} to {value!r}; {instead}")


def value_of(config: Any, field: str, why: str) -> Any:
    """The value of a dotted field; a ConfigError that begins with `why`, if there is none."""
    known = dict(fields(config))
    if field not in known:
        hint = did_you_mean(field, known, "config.")
        raise ConfigError(f"{why} config.{field}, which does not exist.{hint}")
    return known[field]
