"""One table, eight devices: what is learnt, ranked and held does not depend on how they share."""

import math
import types

import numpy as np
import pytest
from on_devices import LAYOUTS, ask

from skipjax.errors import ConfigError
from skipjax.mesh import ONE, make_layout

SLOW = pytest.mark.slow
FEW = {"sampling.scope": "batch", "sampling.num_negatives": 20, "optimizer.table": "deferred"}
CASES = {
    # Rows one by one, as the main job does.
    # In four parts on one device, in one on eight.
    "deferred": {
        **FEW,
        "train.batch_size": 64,
        "data.demo.num_sessions": 600,
        "data.demo.num_tracks": 4_000,
    },
    "bidirectional, shifted": {
        "optimizer.table": "lazy",
        "optimizer.clip_norm": 0.5,
        "optimizer.weight_decay": 0.01,
        "sampling.num_negatives": 5,
        "model.causal": False,
        "model.skip_embedding": True,
        "loss.negatives": "shifted",
        "loss.skipped_weight": 0.3,
    },
    "dense, the batch's tracks": {
        "optimizer.table": "dense",
        "sampling.scope": "batch",
        "loss.negatives": "batch",
        "loss.skipped_negatives": True,
        "optimizer.clip_norm": 0.5,
    },
    "whole softmax, random": {
        "sampling.scope": "full",
        "loss.negatives": "random",
        "loss.context": "hidden",
        "loss.skipped_target": "not_to_recommend",
        "model.pre_norm": True,
    },
}


SHORT = ((1, 1), (2, 4))  # both axes at once


@pytest.mark.parametrize(
    ("case", "steps", "layouts"),
    [
        ("deferred", 12, SHORT),
        pytest.param("deferred", 50, LAYOUTS, marks=SLOW),
        *(pytest.param(case, 8, LAYOUTS, marks=SLOW) for case in list(CASES)[1:]),
    ],
)
def test_losses_do_not_depend_on_the_layout(case, steps, layouts):
    first, *others = ask("losses", changes=CASES[case], steps=steps, layouts=layouts)
    expected = np.array(first["losses"])
    assert first["by_rows"] == (case in ("deferred", "bidirectional, shifted"))
    assert (expected[:, 1:] > 0).all()
    for layout, found in zip(layouts[1:], others, strict=True):
        np.testing.assert_allclose(found["losses"], expected, rtol=1e-4, err_msg=str(layout))
        assert found["begun_alike"]
        assert found["by_rows"] == first["by_rows"]
        assert found["padding_is_zero"]
        # Where a gradient is nearly nothing, Adam moves by its sign: by the rate in each step.
        assert found["apart"] < 0.001 * steps
    assert others[-1]["padding"] > 0


@SLOW
def test_a_layout_that_changed_what_is_drawn_would_be_noticed():
    """Another seed, with the same parameters to start with, is more than the tolerance away."""
    (first,) = ask("losses", changes={"model.dropout": 0.2}, steps=9, layouts=[(8, 1)])
    (other,) = ask("losses", changes={"model.dropout": 0.21}, steps=9, layouts=[(8, 1)])
    apart = np.abs(np.array(first["losses"]) / np.array(other["losses"]) - 1)
    assert apart[1:, 0].max() > 1e-4


@pytest.mark.parametrize(
    ("causal", "layouts"),
    [
        (True, SHORT),
        pytest.param(True, LAYOUTS, marks=SLOW),
        pytest.param(False, LAYOUTS, marks=SLOW),
    ],
)
def test_ranks_do_not_depend_on_the_layout(causal, layouts):
    first, *others = ask("ranks", changes={"model.causal": causal}, layouts=layouts)
    assert len(set(first["test_full"])) > 50
    for layout, found in zip(layouts[1:], others, strict=True):
        assert found == first, layout


@pytest.mark.parametrize("kind", ["deferred", pytest.param("lazy", marks=SLOW)])
def test_copies_of_a_table_that_drifted_apart_are_made_the_same(kind):
    changes = {**CASES["deferred"], "optimizer.table": kind}
    before, after = ask("drift", changes=changes)
    assert before[0] > 0.5
    assert after == [0.0] * len(before)


NUM_IDS = 40_009


@pytest.mark.parametrize(
    ("changes", "layouts"),
    [
        pytest.param({**FEW, "train.batch_size": 16}, [(2, 4)], id="deferred"),
        pytest.param({**FEW, "train.batch_size": 16}, [(1, 8)], id="all share", marks=SLOW),
        pytest.param({"optimizer.table": "dense"}, [(2, 4), (1, 8)], id="dense", marks=SLOW),
        pytest.param({"sampling.scope": "full"}, [(2, 4), (1, 8)], id="full", marks=SLOW),
    ],
)
def test_no_device_holds_the_table_or_all_scores(changes, layouts):
    """Nothing in a program has half as many elements as the table, or an axis as long as it."""
    changes = {"train.batch_size": 16, **changes}
    found = ask("shapes", optimized=True, changes=changes, num_ids=NUM_IDS, layouts=layouts)
    assert len(found) == len(layouts)
    for layout, programs in found.items():
        tracks = int(layout[-1])
        own = -(-NUM_IDS // tracks)
        for name, sizes in programs.items():
            longest = max(max(size) for size in sizes)
            largest = max(math.prod(size) for size in sizes)
            if name == "left to XLA":
                assert longest >= NUM_IDS
                continue
            assert longest < NUM_IDS, (layout, name)
            # The scores of a whole softmax in training are [positions, own].
            full = changes.get("sampling.scope") == "full" and name == "step"
            most = 16 * 17 * own if full else NUM_IDS * 16 // 2
            assert largest <= most, (layout, name)
        assert any(own in size for size in programs["step"])  # it was looked at


def test_a_mesh_must_fit_the_devices():
    one = make_layout(types.SimpleNamespace(data=-1, tracks=1))
    assert (one.data, one.tracks, one.size, one.mesh) == (1, 1, 1, None)
    for data, tracks in ((2, 1), (1, 2), (-1, 2)):
        with pytest.raises(ConfigError, match=f"is {data} and .* {tracks}; .* devices, 1.$"):
            make_layout(types.SimpleNamespace(data=data, tracks=tracks))


def test_one_device_exchanges_nothing():
    x = np.arange(6.0).reshape(2, 3)
    exchanges = (
        ONE.total, ONE.total_of_copies, ONE.total_of_rows, ONE.of_all, ONE.of_all_sessions,
        ONE.of_sharers, ONE.own_total, lambda x: ONE.own_parts(x, 1), ONE.put,
    )  # fmt: skip
    for exchange in exchanges:
        assert exchange(x) is x
    assert ONE.sessions(4).tolist() == [0, 1, 2, 3]
