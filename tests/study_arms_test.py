"""Arms as configs list them, and the configs of their runs."""

import importlib

import pytest

from skipjax.errors import ConfigError
from skipjax.study.arms import arms_of, chosen, configured


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
    base = next(arm for arm in arms if arm.key == "causal_track").settings
    ablations = [arm for arm in arms if arm.group == "ablation"]
    assert len(ablations) == 9
    for arm in ablations:
        assert len(arm.settings.items() - base.items()) == 1
        assert arm.tuned_as == "causal_track"
        # What shuffled labels tell is how much the right ones are worth.
        assert arm.against == ("causal_track" if arm.key == "shuffled_labels" else "causal")


def test_other_ways_stand_alone_and_with_infonce():
    others = [arm for arm in arms_of(table1()) if arm.group == "other"]
    ways = {arm.key.removesuffix("_own") for arm in others if arm.key.endswith("_own")}
    assert len(ways) == 6
    assert {arm.key for arm in others} == {
        f"{way}{suffix}" for way in ways for suffix in ("", "_own", "_shifted", "_random")
    }
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
    ],
)
def test_an_impossible_arm_is_named(entries, message):
    with pytest.raises(ConfigError, match=message):
        arms_of(with_arms(*entries))


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
    with pytest.raises(ConfigError, match=r"table1-x: config\.loss\.alpha cannot be 'much'"):
        configured(table1(), "x", {"loss.alpha": "much"})


def test_a_runs_config_knows_nothing_of_the_study():
    config = table1()
    run = configured(config, "x", {"loss.alpha": 0.3, "seed": 4})
    assert "study" not in run
    assert (run.loss.alpha, run.seed, run.name) == (0.3, 4, "table1-x")
    assert config.loss.alpha == 0.0
    assert "study" in config
