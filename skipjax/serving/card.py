"""What an exported model is, for readers: model_card.md."""

import json
from typing import Any

from skipjax import metrics

_PLAIN_JAX = """\
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jax import export

folder = Path({folder!r})
tracks = pq.read_table(folder / "tracks.parquet")
names = tracks["track_id"].to_pylist()
table = tracks["embedding"].combine_chunks().flatten().to_numpy().reshape(len(names), -1)


def function(name):
    return export.deserialize(bytearray((folder / name).read_bytes())).call


heard = {heard}
session = np.array([[names.index(name) for name in heard]], np.int32)  # [b, l]
valid = np.ones(session.shape, bool)  # False at padding, which goes to the right
feedback = np.zeros(session.shape, np.int32)  # 0 not known, 1 played, 2 skipped
hidden = function("hidden.jaxexport")(table, session, valid, feedback)
scores, ids = function("best_{k}.jaxexport")(table, hidden, session)  # without those heard
print([names[i] for i in ids[0]])"""


def text(facts: dict[str, Any], examples: list[str]) -> str:
    """Markdown.

    Args:
      facts: what the manifest says.
      examples: a track or two.
    """
    config, results = facts["config"], facts["results"]
    synthetic = results.get("synthetic", config["data"]["source"] == "demo")
    source = "synthetic demo sessions" if synthetic else f"source `{config['data']['source']}`"
    skips = "reads which tracks of a session were skipped, where it is told"
    if not facts["reads_skips"]:
        skips = "takes no notice of which tracks of a session were skipped; {}".format(
            "it learned from skips in training"
            if config["loss"]["alpha"]
            else "nor did it learn from skips"
        )
    lines = [
        f"# {facts['name']}",
        "",
        f"A {'causal' if config['model']['causal'] else 'bidirectional'} Transformer that reads a "
        f"listening session, its last {facts['max_length']} tracks at most, and ranks "
        f"{facts['tracks']:,} tracks as the next one. It {skips}. Trained and exported with "
        f"skipjax {facts['versions']['skipjax']}: {facts['about']}.",
        "",
        "## Data",
        "",
        *_data(facts, source, synthetic),
        "",
        "## Quality",
        "",
        *_quality(config, results),
        "",
        "## Limits",
        "",
        *(f"* {limit}" for limit in _limits(facts, synthetic)),
        "",
        "## Use",
        "",
        "With skipjax, jax, flatbuffers, NumPy and pyarrow (`Recommender.load` of "
        "`skipjax.recommend`, or `python -m skipjax recommend --workdir` and this folder); or with "
        "the last four alone:",
        "",
        "```python",
        _PLAIN_JAX.format(folder=".", k=facts["ks"][0], heard=json.dumps(examples)),
        "```",
        "",
        f"Lowered for {', '.join(facts['platforms'])} by jax {facts['versions']['jax']}; jax "
        "promises that newer versions read it for six months, an older one may not. "
        "`manifest.json` has the size and sha256 of each file.",
        "",
        *_index(facts["index"]),
        "## Configuration",
        "",
        "```json",
        json.dumps(config, indent=2),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _data(facts: dict[str, Any], source: str, synthetic: bool) -> list[str]:
    data, results = facts["config"]["data"], facts["results"]
    said = [f"{source[0].upper()}{source[1:]}"]
    if results:
        said.append(f"{results['sessions']:,} sessions on {results['tracks']:,} tracks")
    said.append(f"sessions of {data['min_length']} to {data['max_length']} tracks")
    if results.get("skipped_means"):
        said.append(f"skipped means {results['skipped_means']}")
    lines = ["; ".join(said) + "."]
    if results:
        lines.append(f"Digest of the sessions: `{results['data']}`.")
    if synthetic:
        lines.append("**They are made up: this model is for trying things, not for listeners.**")
    return lines


def _quality(config: dict[str, Any], results: dict[str, Any]) -> list[str]:
    if not results:
        return ["Not tested: the run had not ended."]
    names = [metrics.canonical(name) for name in config["eval"]["metrics"]]
    names = [name for name in names if f"test/{name}" in results]
    lines = [
        f"The last track of each test session held out ({results['split']}), seed "
        f"{results['seed']}, epoch {results['best_epoch']}; most popular in brackets:",
        "",
        f"| metric | among {config['eval']['num_candidates']:,} sampled | among all tracks |",
        "|---|---|---|",
    ]
    for name in names:
        cells = []
        for which in ("test", "test_full"):
            key = f"{which}/{name}"
            cells.append(f"{results[key]:.4f} ({results[f'baseline/popularity/{key}']:.4f})")
        lines.append(f"| {name.upper()} | {' | '.join(cells)} |")
    return lines


def _limits(facts: dict[str, Any], synthetic: bool) -> list[str]:
    return [
        "It knows the tracks in `tracks.parquet` alone: others are passed over, and new ones need "
        "training.",
        "It ranks what listeners of its data went on to hear, skipped or not unless the "
        "configuration says otherwise; whatever bias is in the logs comes back, that towards "
        "popular tracks first.",
        "Scores compare tracks for one session, not sessions, and are no probabilities.",
        "How good it is elsewhere, later, or for listeners unlike those, has not been measured"
        + (", and on made-up sessions means nothing for real ones." if synthetic else "."),
    ]


def _index(index: dict[str, Any]) -> list[str]:
    if not index:
        return []
    recall = ", ".join(f"{share:.1%} of the best {k}" for k, share in index["recall"].items())
    return [
        f"`index.faiss` is an HNSW index (inner product, {index['links']} links, efSearch "
        f"{index['ef_search']}): for {index['queries']:,} test sessions it finds {recall}.",
        "",
    ]
