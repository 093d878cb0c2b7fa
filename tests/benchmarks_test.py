"""The benchmark of the training step: the same work on both sides, counted right."""

import importlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import prepare, study_statistics, train_step
from benchmarks.step_contest import random_split
from benchmarks.step_cost import floor_seconds, step_cost
from skipjax import encoders, sampling, step
from skipjax.data.batches import SessionBatches
from skipjax.ids import FIRST_TRACK_ID

NUM_IDS = 60
ROOT = Path(__file__).parent.parent


def make_config(scope, **optimizer):
    config = importlib.import_module("configs.tiny").get_config()
    config.model.dropout = 0.0
    config.model.num_layers = 2
    config.model.init_bound = 0.5  # so that cosines and logits differ
    config.sampling.num_negatives = 30
    config.sampling.scope = scope
    config.optimizer.update(optimizer)
    return config


def make_batch(rng, size=12):
    """As training gets it."""
    split = random_split(NUM_IDS - FIRST_TRACK_ID, rng.integers(10, 21, size=size))
    return SessionBatches(split, batch_size=size, max_length=20, seed=0).batch(0)


def torch_parameters(params):
    """The parameters of skipjax under the names of benchmarks/torch_step.py."""
    encoder, width = params["encoder"], params["table"].shape[1]
    named = {
        "table.weight": params["table"],
        "encoder.positions.weight": encoder["positions"],
        "encoder.head.weight": encoder["head"]["kernel"].T,
        "encoder.head.bias": encoder["head"]["bias"],
    }
    for i in range(sum(name.startswith("attention_") for name in encoder)):
        attention, block = encoder[f"attention_{i}"], f"encoder.blocks.{i}"
        parts = [attention[name] for name in ("query", "key", "value")]
        kernels = [part["kernel"].reshape(width, width).T for part in parts]
        named[f"{block}.qkv.weight"] = np.concatenate(kernels)
        named[f"{block}.qkv.bias"] = np.concatenate([part["bias"].ravel() for part in parts])
        named[f"{block}.out.weight"] = attention["out"]["kernel"].reshape(width, width).T
        named[f"{block}.out.bias"] = attention["out"]["bias"]
        for name, place in (("in", 0), ("out", 3)):
            dense = encoder[f"feedforward_{i}_{name}"]
            named[f"{block}.feedforward.{place}.weight"] = dense["kernel"].T
            named[f"{block}.feedforward.{place}.bias"] = dense["bias"]
        for name in ("attention", "feedforward"):
            norm = encoder[f"norm_{i}_{name}"]
            named[f"{block}.norm_{name}.weight"] = norm["scale"]
            named[f"{block}.norm_{name}.bias"] = norm["bias"]
    return named


@pytest.mark.parametrize("scope", ["batch", "session"])
@pytest.mark.parametrize("kind", ["adam", "fused"])
def test_the_torch_step_is_the_same_work(rng, monkeypatch, scope, kind):
    torch = pytest.importorskip("torch")
    from benchmarks import torch_step

    # An ε that hides how small gradients round.
    config = make_config(scope, table="dense", epsilon=1e-3, table_epsilon=1e-3)
    batch = make_batch(rng)
    shape = (len(batch["tracks"]), 30) if scope == "session" else (30,)
    negatives = rng.integers(2, NUM_IDS, size=shape).astype(np.int32)
    draw = {"session": "session_tracks", "batch": "uniform_tracks"}[scope]
    monkeypatch.setattr(sampling, draw, lambda *_: negatives)
    encoder = encoders.make_encoder(config.model, config.data.max_length)
    state = step.init_state(config, encoder, NUM_IDS)
    model = torch_step.Model(config, NUM_IDS)
    named = torch_parameters(jax.tree.map(np.array, state.params))
    model.load_state_dict({name: torch.tensor(np.array(x)) for name, x in named.items()})
    optimizers = torch_step.make_optimizers(config.optimizer, model, kind)
    names = ("tracks", "skipped", "valid")
    tensors = {name: torch.from_numpy(batch[name]) for name in names}

    run = step.make_train_step(config, encoder, 10)
    for _ in range(3):  # the later ones see gradients and updates, too
        hyper, key = step.hyperparameters(config, 10), step.train_key(config)
        state, wanted = run(state, batch, hyper, key)
        got = model(tensors, torch.from_numpy(np.atleast_2d(negatives)))
        torch_step.update(optimizers, got["loss"])
        for name in ("loss", "nll", "infonce"):
            np.testing.assert_allclose(got[name].item(), wanted[name], rtol=1e-4)
    table = model.table.weight.detach().numpy()
    np.testing.assert_allclose(table, state.params["table"], rtol=1e-3, atol=1e-5)


def test_cost_is_what_a_hand_counts():
    config = make_config("batch")
    config.model.update(width=4, num_heads=2, feedforward_width=3, num_layers=2, dropout=0.1)
    batch = {
        "tracks": np.array([[5, 6, 7], [5, 8, 0]]),
        "skipped": np.array([[True, False, True], [False, True, True]]),  # the last is padding
        "valid": np.array([[True, True, True], [True, True, False]]),
    }
    cost = step_cost(config, batch, np.array([8, 9, 9, 2, 3]))
    n = 2 + 1  # positions with one after them
    pairs = (1 + 2) + 1  # of a position and one that it sees
    contrast = 2 * 2 + 1 * 1  # of a position and a skipped track
    layer = n * (2 * 4 * 4 * 4 + 2 * 2 * 4 * 3) + pairs * 2 * 2 * 4
    loss = n * (2 * 4 + 2 * 4 * 5) + n * 2 * 4 + contrast * 2 * 4
    assert cost["matmul_flops"] == 3 * (2 * layer + n * 2 * 4 * 4 + loss)
    # Attention weights of 2 heads, activations, and two sums of residual and branch.
    layer = 5 * pairs * 2 + 5 * n * 3 + 2 * 7 * n * 4
    values = 2 * layer + 5 * n * 4 + 5 * n * 4 + 3 * n * (1 + 5)
    masks = 2 * (pairs * 2 + n * 3 + 2 * n * 4) + n * 4
    assert cost["elementwise_bytes"] == 4 * values + 2 * masks
    rows = len({5, 6, 7, 8, 9, 2, 3})
    assert cost["row_bytes"] == rows * 4 * 4 * 3 * 2
    assert [cost[name] for name in ("positions", "attention_pairs", "contrast_pairs", "rows")] == [
        n,
        pairs,
        contrast,
        rows,
    ]
    rates = {"matmul_gflops": 2.0, "copy_gbps": 3.0, "gather_gbps": 4.0}
    assert floor_seconds(cost, rates) == {
        "matmul": cost["matmul_flops"] / 2e9,
        "elementwise": cost["elementwise_bytes"] / 3e9,
        "rows": cost["row_bytes"] / 4e9,
    }


def measured(num_tracks, names):
    """A workload as in the JSON, with made-up numbers."""
    numbers = {"seconds": [0.1, 0.2, 0.3], "seconds_median": 0.2, "times_floor_median": 2.0}
    numbers |= {"peak_gb": 1.0, "beyond_tables_gb": 0.5}
    rates = {"matmul_gflops": 100.0, "copy_gbps": 10.0, "gather_gbps": 5.0}
    return {
        "num_tracks": num_tracks,
        "together": [names],
        "left_out": {"torch Adam": "needs 31.5 GB, 22.0 GB are free"},
        "contenders": {
            name: {**numbers, "times_skipjax_median": 1.0, "same_rounds": True} for name in names
        },
        "floor": {
            "seconds": [0.1, 0.1, 0.1],
            "seconds_median": 0.1,
            "terms_seconds_median": {"matmul": 0.07, "elementwise": 0.02, "rows": 0.01},
            "binds": "matmul",
            "rates_median": rates,
            "cost": {"rows": 4000.0},
        },
    }


def test_results_are_shown_and_drawn_again(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib").use("agg")
    shape = {"valid_share": 0.7, "seconds_median": 0.11}
    facts = {
        "date": "2026-01-01T00:00:00+00:00",
        "hardware": {"cpu": "a CPU", "cpus": 4, "memory_gb": 16},
        "versions": {"python": "3.11", "skipjax": "0"},
        "device": {"platform": "cpu", "device": "cpu"},
        "cpus_used": 2,
        "load_average": [0.1, 2.0],
        "config": {"train.batch_size": 256, "model.width": 128},
        "rounds": 3,
        "has_torch": False,
        "host_batch_ms": {"10000": 0.2},
        "results": {
            scope: {
                "W0": measured(10_000, ["skipjax", "skipjax dense"]),
                "W2": measured(1_000_000, ["skipjax", "skipjax dense"]),
            }
            for scope in train_step.SCOPES
        },
        "padding": {
            "batch": {"num_tracks": 100, "ratio_median": 1.07, "padded": shape, "packed": shape},
            "session": {"num_tracks": 100, "left_out": {"padded": "ended"}},
        },
    }
    saved, drawn = tmp_path / "results.json", tmp_path / "results.png"
    saved.write_text(json.dumps(facts))
    command = ["train_step", "--from-json", str(saved), "--plot", str(drawn)]
    monkeypatch.setattr(sys, "argv", command)
    train_step.main()
    assert drawn.read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    for text in ("1,000,000", "skipjax dense", "31.5 GB", "matmul binds", "1.07 ×", "[benchmark]"):
        assert text in shown


def test_studies_are_drawn_side_by_side(tmp_path, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from benchmarks import study_plot

    saved = ROOT / "benchmarks"
    named = [f"{name}={saved}/study_{name}.json" for name in ("movielens", "demo")]
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text as text
        study_plot.main([*named, "--plot", str(tmp_path / "study.svg")])
    drawn = (tmp_path / "study.svg").read_text()
    arms = json.loads((saved / "study_movielens.json").read_text())["arms"]
    for text in ["movielens", "demo", *(arm["label"] for arm in arms if arm["comparisons"])]:
        assert text in drawn
    with pytest.raises(SystemExit):
        study_plot.main([str(saved / "study_demo.json"), "--plot", str(tmp_path / "x.png")])
    assert "wanted NAME=FILE" in capsys.readouterr().err
    # Of a base of about 0 there is no ratio, or none with an end.
    study = json.loads((saved / "study_demo.json").read_text())
    found = [arm["comparisons"] for arm in study["arms"] if arm["comparisons"]]
    for one in found[0].values():
        one |= {"relative": None, "relative_low": None, "relative_high": None}
    for one in found[1].values():
        one |= {"relative_low": None, "relative_high": None}
    other = tmp_path / "study.json"
    other.write_text(json.dumps(study))
    study_plot.main([f"x={other}", "--plot", str(tmp_path / "study.svg")])
    for changed, plot, message in (
        (study | {"arms": study["arms"][:1]}, "x.png", "no arm is compared"),
        ({}, "x.png", "not the study.json of a study"),
        (study, "x.txt", "wanted a name that ends in .png or .svg"),
        (study, "none/x.png", "there is no folder"),
    ):
        other.write_text(json.dumps(changed))
        with pytest.raises(SystemExit):
            study_plot.main([f"x={other}", "--plot", str(tmp_path / plot)])
        assert message in capsys.readouterr().err


def test_the_statistics_are_simulated(tmp_path, monkeypatch, capsys):
    saved = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["study_statistics", "--quick", "--json", str(saved)])
    study_statistics.main()
    facts = json.loads(saved.read_text())
    assert facts["draws"] == 5
    shown = capsys.readouterr().out
    for result in facts["results"]:
        assert result["question"] in shown
        assert ("paired seeds" in result["rules"]) == (len(set(result["num_seeds"])) == 1)
        # p is found below .0025 only where it is below .05.
        for rule in result["rules"].values():
            assert 0 <= rule["p<0.0025"]["found"] <= rule["p<0.05"]["found"] <= 1
    planted = [result for result in facts["results"] if result["planted"] == 6]
    assert all(result["rules"]["sessions alone"]["p<0.05"]["found"] == 1 for result in planted)


def test_a_planted_difference_is_as_large_as_it_says(rng):
    """The units of the simulation: cell noise, seed effects and standard errors."""
    for effect, planted, correlation in [(0, 4, 0.0), (2, 6, 0.0), (3, 4, 0.8)]:
        case = study_statistics.Case("", (3, 3), (effect, effect), planted, correlation)
        arm, base = (hits.mean(axis=(1, 2)) for hits in study_statistics._hits(case, 600, rng))
        np.testing.assert_allclose((arm + base).mean() / 2, study_statistics.HIT_RATE, atol=0.01)
        np.testing.assert_allclose((arm - base).mean() / (arm - base).std(), planted, rtol=0.1)
    strained = study_statistics.Case("", (3, 3), (20, 0))  # its seeds must not raise the rate
    arm, base = study_statistics._hits(strained, 600, rng)
    np.testing.assert_allclose(arm.mean(), base.mean(), atol=0.025)
    arm, base = study_statistics._hits(study_statistics.Case("", (2, 2), (0, 0)), 300, rng)
    variance = study_statistics.CELL_VARIANCE / study_statistics.NUM_SESSIONS
    means = arm.mean(axis=2)
    np.testing.assert_allclose((means[:, 0] - means[:, 1]).var() / 2, variance, rtol=0.25)


def test_listens_are_like_yambdas_and_their_preparation_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "LISTENS", 50)
    path = prepare.make_listens(tmp_path / "listens.parquet", listeners=30, tracks=400)
    listens = pq.read_table(path)
    assert [str(kind) for kind in listens.schema.types] == [
        *("uint32", "uint32", "uint32", "uint8", "uint16", "uint32")
    ]
    order = np.lexsort([listens["timestamp"], listens["uid"]])
    assert (order == np.arange(listens.num_rows)).all()
    assert not (listens["timestamp"].to_numpy() % 5).any()
    for what in ("parquet", "yambda"):
        measured = prepare._measure(what, str(path), str(tmp_path))
        assert measured["rows"] == listens.num_rows
        assert measured["peak_mb"] > 1
        assert measured["seconds"] > 0
