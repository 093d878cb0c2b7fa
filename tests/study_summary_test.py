import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from study_measures_test import make_facts, make_outcome

from skipjax.errors import ConfigError, DataError
from skipjax.study import measures, statistics, summary


def make_arm(key, against=None, **changes):
    return {
        "key": key,
        "label": f"the {key}",
        "group": "table1",
        "against": against,
        "settings": {"loss.alpha": 0.5},
        "curves": [],
    } | changes


@pytest.fixture
def study(rng):
    """Facts, outcomes and arms: S-, a better and an equal S+ on it, and a baseline."""
    facts = make_facts(
        150,
        rng,
        context={"context_type": np.where(np.arange(150) < 50, "radio", "catalog")},
    )
    outcomes = [make_outcome(n, 150, rng, key=key) for key, n in (("base", 4), ("same", 3))]
    good = make_outcome(3, 150, rng, key="good", top=None)
    good.sampled[:], good.full[:] = (good.sampled + 1) // 2, (good.full + 2) // 3
    once = make_outcome(1, 150, rng, key="popular")
    outcomes = [once, good, *outcomes]
    arms = [
        make_arm("base"),
        make_arm("good", "base", curves=[{"seed": 0, "epoch": [1], "train/loss": [float("nan")]}]),
        make_arm("same", "base", group="ablation", settings={"loss.negatives": ("own",)}),
        make_arm("popular", group="baseline"),
    ]
    return facts, outcomes, arms


ABOUT = {"name": "demo", "source": "demo", "synthetic": True, "tuning": []}


def summarise(study, **changes):
    facts, outcomes, arms = study
    return summary.summarise(facts, outcomes, arms, ABOUT, resamples=200, **changes)


def test_it_is_json_without_nan(study):
    found = summarise(study)
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert found["arms"][1]["curves"] == [{"seed": 0, "epoch": [1], "train/loss": [None]}]
    assert found["arms"][2]["settings"] == {"loss.negatives": ["own"]}


def test_the_whole_study(study):
    facts, outcomes, _ = study
    found = summarise(study)
    assert {key: found[key] for key in ABOUT} == ABOUT
    assert (found["sessions"], found["tracks"]) == (150, 30)
    np.testing.assert_allclose(found["skipped_targets"], 50 / 150)
    assert [arm["key"] for arm in found["arms"]] == ["base", "good", "same", "popular"]
    for arm in found["arms"]:
        assert {*arm} == {
            *("key", "label", "group", "against", "seeds", "settings", "metrics", "hr_at_k"),
            *("comparisons", "breakdown", "curves"),
        }
        outcome = next(outcome for outcome in outcomes if outcome.key == arm["key"])
        assert arm["seeds"] == [*outcome.seeds]
        expected = measures.measure(outcome, facts)
        assert {*arm["metrics"]} == {*expected}
        for name, metric in arm["metrics"].items():
            np.testing.assert_allclose(metric["values"], expected[name], rtol=1e-11)
            np.testing.assert_allclose(metric["mean"], expected[name].mean(), rtol=1e-11)
            if len(arm["seeds"]) > 1:
                np.testing.assert_allclose(metric["std"], expected[name].std(ddof=1), rtol=1e-9)
        assert arm["hr_at_k"]["k"] == [1, 2, 3, 5, 10, 20, 50, 100]
        np.testing.assert_allclose(
            arm["hr_at_k"]["test_full"][4], arm["metrics"]["test_full/hr@10"]["mean"]
        )
    assert found["arms"][3]["metrics"]["test/mrr"]["std"] is None
    assert "coverage@10" not in found["arms"][1]["metrics"]


def test_comparisons_are_those_of_statistics(study):
    facts, outcomes, _ = study
    of_key = {outcome.key: outcome for outcome in outcomes}
    found = summarise(study, seed=5)["arms"]
    assert found[0]["comparisons"] == found[3]["comparisons"] == {}
    for arm in found[1:3]:
        assert {*arm["comparisons"]} == {*summary.COMPARED}
        for name, entry in arm["comparisons"].items():
            gap = name == "test_full/gap_mrr"
            values = [
                measures.session_values(of_key[key], "test_full/mrr" if gap else name)
                for key in (arm["key"], "base")
            ]
            played = ~facts.target_skipped if gap else None
            alone = statistics.compare(*values, contrast=played, resamples=200, seed=5)
            for field in ("difference", "low", "high", "p", "relative", "relative_low"):
                expected = getattr(alone, field)
                if expected is None:
                    assert entry[field] is None
                else:
                    np.testing.assert_allclose(entry[field], expected, rtol=1e-9, atol=1e-12)
            means = [arm["metrics"][name]["mean"], found[0]["metrics"][name]["mean"]]
            np.testing.assert_allclose(entry["difference"], means[0] - means[1], atol=1e-12)
            assert measures.spoken(name) in entry["sentence"]
    assert found[1]["comparisons"]["test_full/hr@10"]["sentence"].startswith(
        "the good beats the base by "
    )
    assert "No difference found" in found[2]["comparisons"]["test_full/hr@10"]["sentence"]


def test_the_family_is_every_arm_for_each_measure(study):
    found = summarise(study)
    assert "over all 2 comparisons" in found["family"]
    for name in summary.COMPARED:
        entries = [arm["comparisons"][name] for arm in found["arms"][1:3]]
        expected = statistics.holm(np.array([entry["p"] for entry in entries]))
        np.testing.assert_allclose([entry["p_holm"] for entry in entries], expected, rtol=1e-9)


def test_breakdowns_add_up(study):
    facts, outcomes, _ = study
    for arm in summarise(study)["arms"]:
        rows = arm["breakdown"]
        assert [row["value"] for row in rows if row["by"] == "context_type"] == ["catalog", "radio"]
        for by in {row["by"] for row in rows}:
            chosen = [row for row in rows if row["by"] == by]
            assert sum(row["sessions"] for row in chosen) == 150
            for name in ("test/hr@10", "test_full/hr@10"):
                total = sum(row["sessions"] * row[name] for row in chosen)
                np.testing.assert_allclose(total / 150, arm["metrics"][name]["mean"], rtol=1e-9)
        for row in rows:
            compared = arm["against"] is not None and row["sessions"] >= 30
            assert bool(row["comparison"]) == compared
    outcome = {outcome.key: outcome for outcome in outcomes}
    skipped = facts.target_skipped
    alone = statistics.compare(
        *(outcome[key].full[:, skipped] <= 10 for key in ("good", "base")), resamples=200
    )
    row = next(row for row in summarise(study)["arms"][1]["breakdown"] if row["value"] == "skipped")
    entry = row["comparison"]["test_full/hr@10"]
    np.testing.assert_allclose(
        [entry["difference"], entry["low"], entry["high"]],
        [alone.difference, alone.low, alone.high],
        rtol=1e-9,
    )


def test_without_skipped_targets_there_is_no_gap(study, rng):
    facts = make_facts(150, rng, target_skipped=np.zeros(150, bool))
    found = summarise((facts, *study[1:]))["arms"][1]
    assert "test_full/gap_mrr" not in found["comparisons"]
    assert "test_full/gap_mrr" not in found["metrics"]
    assert "test_full/mrr" in found["comparisons"]


def test_nothing_compared_is_said(study):
    facts, outcomes, arms = study
    found = summarise((facts, outcomes, [arm | {"against": None} for arm in arms]))
    assert found["family"] == "No arm is compared with another, so nothing is corrected."


def test_it_repeats_and_numbers_are_short(study):
    found = summarise(study)
    assert json.dumps(found) == json.dumps(summarise(study))
    assert found["arms"][0]["metrics"]["test/hr@1"]["mean"] == float(
        f"{found['arms'][0]['metrics']['test/hr@1']['mean']:.12g}"
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda arms: arms[1].update(against="nobody"), ConfigError, "against 'nobody'"),
        (lambda arms: arms[1].update(against="good"), ConfigError, "against 'good'"),
        (lambda arms: arms[1].update(key="base"), ConfigError, "key of their own"),
        (lambda arms: arms.append(make_arm("new")), DataError, "'new'.* no outcome"),
    ],
)
def test_arms_that_do_not_fit_are_refused(study, change, error, message):
    change(study[2])
    with pytest.raises(error, match=message):
        summarise(study)


def test_outcomes_of_another_split_are_refused(study, rng):
    facts, outcomes, arms = study
    with pytest.raises(DataError, match="facts of 149"):
        summarise((make_facts(149, rng), outcomes, arms))
    other = make_outcome(1, 150, rng, num_tracks=31, key="popular")
    with pytest.raises(DataError, match="different sizes"):
        summarise((facts, [other, *outcomes[1:]], arms))


def test_the_table_has_a_row_for_each_session_arm_and_seed(study):
    facts, outcomes, _ = study
    facts.context["seed"] = np.arange(150)
    ids = pa.array([f"s{i}" for i in range(150)])
    table = summary.sessions_table(ids, np.arange(150) + 7, facts, outcomes)
    assert table.column_names == [
        *("session_id", "arm", "seed", "target", "target_skipped", "rank_sampled", "rank_full"),
        *("position", "skips_before", "popularity", "context_type", "context.seed"),
    ]
    rows = iter(table.to_pylist())
    for outcome in outcomes:
        for i, seed in enumerate(outcome.seeds):
            for session in range(150):
                assert next(rows) == {
                    "session_id": f"s{session}",
                    "arm": outcome.key,
                    "seed": seed,
                    "target": session + 7,
                    "target_skipped": facts.target_skipped[session],
                    "rank_sampled": outcome.sampled[i, session],
                    "rank_full": outcome.full[i, session],
                    "position": facts.position[session],
                    "skips_before": facts.skips_before[session],
                    "popularity": facts.popularity[session],
                    "context_type": facts.context["context_type"][session],
                    "context.seed": session,
                }
    assert next(rows, None) is None


def test_the_table_goes_through_parquet(study, tmp_path):
    facts, outcomes, _ = study
    facts.context["kind"] = np.array([None, "x"] * 75, object)
    table = summary.sessions_table(pa.array(range(150)), np.arange(150), facts, outcomes)
    pq.write_table(table, tmp_path / "sessions.parquet")
    assert pq.read_table(tmp_path / "sessions.parquet").to_pylist() == table.to_pylist()
