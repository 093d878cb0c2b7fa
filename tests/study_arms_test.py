"""Arms as configs list them, and the configs of their runs."""

import importlib

import pytest

from skipjax.errors import ConfigError
from skipjax.limits import check_limits
from skipjax.study.arms import arms_of, checked, chosen, configured


def table1():
    return importlib.import_module("configs.table1").get_config()


def with_arms(*entries):
    config = table1()
    config.study.arms = tuple(
        {"key": "a", "label": "A", "group": "other", "against": None, "set": {}} | entry
        for entry in entries
    )
    return config


def test_table1_is_the_papers_six_arms():
    arms = {arm.key: arm for arm in arms_of(table1())}
    six = [arm for arm in arms.values() if arm.group == "table1"]
    assert [arm.label for arm in six] == [
        f"{encoder} {arm}"
        for encoder in ("causal", "bidirectional")
        for arm in ("S-", "S+ hidden", "S+ track")
    ]
    # The same configs as those with which main.py trains one of them.
    files = {
        "causal": ("sasrec", ()),
        "causal_hidden": ("sasrec_skip", ("hidden",)),
        "causal_track": ("sasrec_skip", ("track",)),
        "bi": ("bert4rec", ()),
        "bi_hidden": ("bert4rec_skip", ("hidden",)),
        "bi_track": ("bert4rec_skip", ("track",)),
    }
    for key, (name, arguments) in files.items():
        expected = importlib.import_module(f"configs.{name}").get_config(*arguments)
        actual = configured(table1(), key, arms[key].settings)
        expected.name = actual.name = "same"
        assert actual.to_dict() == expected.to_dict()


def test_every_ablation_is_one_field_away_from_s_plus_track():
    arms = arms_of(table1())
    settings = {arm.key: arm.settings for arm in arms}
    ablations = [arm for arm in arms if arm.group == "ablation"]
    assert len(ablations) == 10
    # What other labels tell is how much the right ones are worth.
    relabelled = {"shuffled_labels": "causal_track", "in_batch_unlabelled": "in_batch"}
    for arm in ablations:
        base = settings[relabelled.get(arm.key, "causal_track")]
        assert len(arm.settings.items() - base.items()) == 1
        assert arm.tuned_as == "causal_track"
        assert arm.against == relabelled.get(arm.key, "causal")


def test_other_ways_stand_alone_and_with_infonce():
    others = [arm for arm in arms_of(table1()) if arm.group == "other"]
    ways = {arm.key.removesuffix("_own") for arm in others if arm.key.endswith("_own")}
    assert len(ways) == 6
    assert {arm.key for arm in others} == {
        f"{way}{suffix}" for way in ways for suffix in ("", "_own", "_shifted", "_random")
    } | {"embedding_batch"}
    for arm in others:
        assert arm.has_skip_term == (arm.key not in ways)
        assert arm.tuned_as == ("causal" if arm.key in ways else "causal_track")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (({}, {}), "has 'a', which is taken already"),
        (({"key": "markov"},), "has 'markov', which is taken already"),
        (({"group": "best"},), "is of group 'best'; choose of"),
        (({}, {"key": "b", "against": "c"}), "'b' has against = 'c'; name one of a, or None"),
        (({"against": "a"},), "has against = 'a'; name one of"),
        (({"tuned_as": "b"},), "has tuned_as = 'b'; name one that is tuned itself"),
        (
            ({}, {"key": "b", "tuned_as": "a"}, {"key": "c", "tuned_as": "b"}),
            "'c' has tuned_as = 'b'; name one that is tuned itself",
        ),
        (({"agianst": "b"},), r"entry 'a' with too few or unknown fields \(agianst\); give"),
        (({"set": {"eval": {"seed": 1}}},), r"sets config\.eval\.seed, but arms can only be"),
        (({"set": {"data": {"require_skip": True}}},), "but arms can only be compared if"),
        (({"set": {"loss": {"alfa": 1.0}}},), r"the arm 'a' sets config\.loss\.alfa, which does"),
        (({"set": {"lots": {"alpha": 1.0}}},), r"sets config\.lots\.alpha, which does not exist"),
        (({"set": {"loss": 1.0}},), r"the arm 'a' sets config\.loss, which does not exist"),
        (({"set": {"loss": {"alfa": 1.0}}},), r"\. Did you mean config\.loss\.alpha\?$"),
        (({"set": 1.0},), r"the arm 'a' has set = 1\.0; it must be a dict of sections, each a"),
        (({"label": None},), r"the arm 'a' has label = None; it must be text\."),
        (({"key": 1},), r"the arm 1 has (key|tuned_as) = 1; it must be text\."),
        (
            ({"set": {"loss": {"alpha": "much"}}},),
            r"^the arm 'a' sets config\.loss\.alpha to 'much'; it must be a finite number of at",
        ),
        (
            ({"set": {"model": {"width": 16.0}}},),
            r"^the arm 'a' sets config\.model\.width to 16\.0; it must be a whole number of at",
        ),
        (
            ({"set": {"train": {"batch_size": True}}},),
            r"^the arm 'a' sets config\.train\.batch_size to True; it must be a whole number",
        ),
        (
            ({"set": {"loss": {"context": "tracks"}}},),
            r"to 'tracks'; choose one of 'track', 'hidden'\. Did you mean 'track'\?$",
        ),
    ],
)
def test_an_impossible_arm_is_named(entries, message):
    with pytest.raises(ConfigError, match=message) as caught:
        arms_of(with_arms(*entries))
    assert len(str(caught.value).splitlines()) == 1


def test_arms_are_checked_with_what_they_share():
    """Fields that do not go together, though each for itself is possible."""
    config = with_arms({}, {"key": "b", "set": {"model": {"num_heads": 3}}})
    message = r"^the arm 'b': config\.model\.width \(128\) must be divisible by .*num_heads \(3\)"
    with pytest.raises(ConfigError, match=message):
        checked(config, (), check_limits)
    assert [arm.key for arm in checked(config, ("a",), check_limits)] == ["a"]
    assert checked(table1(), (), check_limits) == arms_of(table1())


def test_chosen_arms_bring_what_they_are_compared_with():
    arms = arms_of(table1())
    assert [arm.key for arm in chosen(arms, ["embedding_own"])] == [
        "causal",
        "causal_track",
        "embedding_own",
    ]
    assert chosen(arms, []) == arms
    with pytest.raises(ConfigError, match="there is no arm 'embeding'; there are causal, "):
        chosen(arms, ["embeding"])


def test_a_value_of_the_wrong_type_is_named():
    message = r"^table1-x sets config\.loss\.alpha to 'much'; it must be a finite number"
    with pytest.raises(ConfigError, match=message):
        configured(table1(), "x", {"loss.alpha": "much"})


def test_a_runs_config_knows_nothing_of_the_study():
    config = table1()
    run = configured(config, "x", {"loss.alpha": 0.3, "seed": 4})
    assert "study" not in run
    assert (run.loss.alpha, run.seed, run.name) == (0.3, 4, "table1-x")
    assert config.loss.alpha == 0.0
    assert "study" in config
