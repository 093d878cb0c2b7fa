"""Table 1 and what explains it: python -m skipjax study --config=configs/table1.py.

The paper's six arms, ablations of the skip term, and other ways to use a skip, alone and together
with InfoNCE. Each arm is one entry; adding one is adding one.
"""

from ml_collections import ConfigDict

from configs import common

_S_MINUS = {"alpha": 0.0, "beta": 1.0}
_S_PLUS = {"alpha": 0.5, "beta": 0.5}
_RANDOM, _SHIFTED = {"negatives": "random"}, {"negatives": "shifted"}
_BATCH = {"negatives": "batch"}


def get_config():
    config = common.get_config()
    config.name = "table1"

    config.study = study = ConfigDict()
    # Chosen on validation, with seed 0: the rate first, with equal weights, then alpha : beta. Adam
    # sees no more of the weights than their ratio.
    study.learning_rates = (1e-4, 5e-4, 1e-3, 5e-3)
    study.ratios = ((0.1, 0.9), (0.3, 0.7), (0.7, 0.3), (0.9, 0.1))
    study.most_tuning_runs = 40  # one seed each
    study.other_seeds = 3  # at most, of arms outside the paper's table
    study.keep_checkpoints = False  # of finished runs
    study.arms = (
        _arm("causal", "causal S-", "table1", None, loss=_S_MINUS),
        _arm("causal_hidden", "causal S+ hidden", loss={**_S_PLUS, "context": "hidden"}),
        _arm("causal_track", "causal S+ track", loss=_S_PLUS),
        _arm("bi", "bidirectional S-", "table1", None, loss=_S_MINUS, model={"causal": False}),
        _arm(
            "bi_hidden",
            "bidirectional S+ hidden",
            "table1",
            "bi",
            loss={**_S_PLUS, "context": "hidden"},
            model={"causal": False},
        ),
        _arm(
            "bi_track",
            "bidirectional S+ track",
            "table1",
            "bi",
            loss=_S_PLUS,
            model={"causal": False},
        ),
        # What in the skip term helps? All of the causal encoder, with the track as context.
        _arm(
            "shuffled_labels",
            "S+ track, skip labels shuffled",
            "ablation",
            "causal_track",  # does it matter what was skipped?
            "causal_track",
            loss=_S_PLUS,
            data={"labels": "shuffled"},
        ),
        _ablation("inverted", "skip labels inverted", loss={"polarity": "played"}),
        _ablation("shifted", "skips of another session", loss=_SHIFTED),
        _ablation("random", "random tracks for skips", loss=_RANDOM),
        _ablation("in_batch", "the batch's tracks for skips", loss=_BATCH),
        _arm(
            "in_batch_unlabelled",
            "S+ track, the batch's tracks for skips, skip labels ignored",
            "ablation",
            "in_batch",  # does it matter what was played?
            "causal_track",
            loss={**_S_PLUS, **_BATCH},
            data={"labels": "ignored"},
        ),
        _ablation("tau_05", "τ = 0.05", loss={"temperature": 0.05}),
        _ablation("tau_2", "τ = 0.2", loss={"temperature": 0.2}),
        _ablation("tau_5", "τ = 0.5", loss={"temperature": 0.5}),
        _ablation("tau_10", "τ = 1", loss={"temperature": 1.0}),
        # Other ways to use a skip.
        *_ways("embedding", "skip embedding", model={"skip_embedding": True}),
        _arm(
            "embedding_batch",
            "skip embedding, S+ batch's tracks",
            "other",
            "causal",
            "causal_track",
            loss={**_S_PLUS, **_BATCH},
            model={"skip_embedding": True},
        ),
        *_ways("dropped", "skipped targets dropped", loss={"skipped_weight": 0.0}),
        *_ways("weighted", "skipped targets × 0.3", loss={"skipped_weight": 0.3}),
        *_ways("against", "not to recommend", loss={"skipped_target": "not_to_recommend"}),
        *_ways("pushed", "skips as softmax negatives", loss={"skipped_negatives": True}),
        *_ways("next_played", "next played target", loss={"target": "next_played"}),
    )
    return config


def _arm(key, label, group="table1", against="causal", tuned_as=None, **settings):
    """`tuned_as` names the arm whose learning rate and weights it takes over; without it, its own
    are chosen."""
    return {
        "key": key,
        "label": label,
        "group": group,
        "against": against,
        "tuned_as": tuned_as or key,
        "set": settings,
    }


def _ablation(key, label, loss=None, **settings):
    settings["loss"] = {**_S_PLUS, **(loss or {})}
    return _arm(key, f"S+ track, {label}", "ablation", "causal", "causal_track", **settings)


def _ways(key, label, loss=None, **settings):
    """Alone, and with InfoNCE against the session's own skips, another's, or random tracks."""
    loss = loss or {}
    alone = {**settings, "loss": {**_S_MINUS, **loss}}
    yield _arm(key, label, "other", "causal", "causal", **alone)
    for name, words, negatives in (
        ("own", "S+", {}),
        ("shifted", "S+ others' skips", _SHIFTED),
        ("random", "S+ random tracks", _RANDOM),
    ):
        both = {**settings, "loss": {**_S_PLUS, **loss, **negatives}}
        yield _arm(f"{key}_{name}", f"{label}, {words}", "other", "causal", "causal_track", **both)
