"""Mistakes in a config: each is one line that names the field, its value and the fix."""

import importlib
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_sessions, random_listening
from ml_collections import ConfigDict

from skipjax.cli.config_flags import config_of
from skipjax.data import demo
from skipjax.data.split import leave_one_out
from skipjax.errors import ConfigError
from skipjax.limits import check_data_limits, check_limits, fields, wanted
from skipjax.train import check_config

# Of ml_collections, which loads a config file by it.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")

ROOT = Path(__file__).parent.parent
CONFIGS = (
    "common",
    "sasrec",
    "sasrec_skip",
    "bert4rec",
    "bert4rec_skip",
    "recommended",
    "tiny",
    "table1",
)


def load(name):
    return importlib.import_module(f"configs.{name}").get_config()


def put(config, field, value):
    """Sets a field, whatever its type."""
    *sections, last = field.split(".")
    for section in sections:
        config = config[section]
    with config.ignore_type():
        config[last] = value


def refusal(check):
    with pytest.raises(ConfigError) as caught:
        check()
    said = str(caught.value)
    assert caught.value.exit_code == 2
    assert len(said.splitlines()) == 1
    assert said.endswith((".", "?"))
    return said


ALL = [field for field, _ in fields(load("table1"))]  # with those of config.study
NUMBERS = [(f, v) for f, v in fields(load("common")) if type(v) in (int, float)]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_within_the_limits(name):
    """And so every field has a rule: one without is refused."""
    check_limits(load(name))


@pytest.mark.parametrize("field", ALL)
def test_every_field_has_a_rule(field):
    config = load("table1")
    put(config, field, None)
    said = refusal(lambda: check_limits(config))
    assert re.match(rf"config\.{field} is None; (it must be \w|choose one of ')", said)


@pytest.mark.parametrize("field", ALL)
def test_a_field_that_is_missing_is_named(field):
    config = load("table1")
    section = config
    *sections, last = field.split(".")
    for name in sections:
        section = section[name]
    del section[last]
    file = "table1" if field.startswith("study.") else "common"
    expected = f"config.{field} is missing; begin with configs/{file}.py, which has it."
    assert refusal(lambda: check_limits(config)) == expected


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("loss.temprature", " Did you mean config.loss.temperature?"),
        ("train.batchsize", " Did you mean config.train.batch_size?"),
        ("zzz", ""),
    ],
)
def test_a_field_that_nothing_reads_is_refused(field, hint):
    config = load("tiny")
    put(config, field, 1)
    said = refusal(lambda: check_limits(config))
    assert said.startswith(f"there is no field config.{field}.")
    assert said.endswith(hint or ".")


@pytest.mark.parametrize(("field", "default"), NUMBERS)
def test_numbers_are_numbers(field, default):
    """Python takes True for 1 and compares nan with everything; a float32 ends at 3.4e38."""
    assert wanted(field, default) == ""
    negative = -2 if field in ("data.gap_minutes", "mesh.data") else -1  # which have a meaning
    wrong = [True, False, math.nan, math.inf, -math.inf, "1", (1,), negative, 1e39]
    wrong += [1.5, 2**63] if type(default) is int else []
    for value in wrong:
        assert re.fullmatch(r"it must be a (whole|finite)? ?number .*", wanted(field, value)), value


def test_the_demo_and_its_field_have_the_same_limits():
    for number in (demo.MIN_TRACKS, demo.MAX_TRACKS):
        assert wanted("data.demo.num_tracks", number) == ""
    for number in (demo.MIN_TRACKS - 1, demo.MAX_TRACKS + 1):
        assert wanted("data.demo.num_tracks", number) != ""


def test_what_is_offered_is_accepted():
    offered = 0
    for field in ALL:
        config = load("table1")
        put(config, field, None)
        _, _, choices = refusal(lambda config=config: check_limits(config)).partition("choose one")
        for choice in re.findall(r"'(\w+)'", choices):
            config = load("common")
            put(config, field, choice)
            check_config(config)
            offered += 1
    assert offered >= 30


# Flags, and what is said of them, with the fix.
MISTAKES = [
    # Of another type.
    ("train.batch_size=x", "train.batch_size=x: it must be a whole number of at least 1."),
    ("train.batch_size=1.5", "train.batch_size=1.5: it must be a whole number of at least 1."),
    ("train.batch_size=1e3", "train.batch_size=1e3: it must be a whole number of at least 1."),
    ("train.batch_size=True", "train.batch_size=True: it must be a whole number of at least 1."),
    ("train.batch_size=", "train.batch_size=: it must be a whole number of at least 1."),
    ("seed=None", "seed=None: it must be a whole number of at least 0."),
    ("loss.alpha=much", "loss.alpha=much: it must be a finite number of at least 0."),
    ("loss.alpha=0,5", "loss.alpha=0,5: it must be a finite number of at least 0."),
    ("model.causal=maybe", "model.causal=maybe: it must be True or False."),
    ("model.causal=2", "model.causal=2: it must be True or False."),
    ("data.skip_levels=(1,'a')", "skip_levels is (1, 'a'); it must be a tuple of levels, each 0,"),
    ("data.skip_levels=(1,", "skip_levels=(1,: it must be a tuple of levels, each 0, 1, 2 or 3."),
    ("data.skip_levels=(7,)", "skip_levels is (7,); it must be a tuple of levels, each 0, 1, 2"),
    ("data.skip_levels=(1.0,)", "skip_levels is (1.0,); it must be a tuple of levels"),
    ("data.skip_levels=(True,)", "skip_levels is (True,); it must be a tuple of levels"),
    ("data.skip_levels=None", "skip_levels is (None,); it must be a tuple of levels"),
    ("data.table.context_columns=('a',1)", "context_columns is ('a', 1); it must be a tuple of"),
    ("eval.metrics=(10,)", "config.eval.metrics is (10,); it must be a tuple of one metric"),
    # No number, or one outside its limits.
    ("loss.alpha=nan", "config.loss.alpha is nan; it must be a finite number of at least 0."),
    ("loss.beta=inf", "config.loss.beta is inf; it must be a finite number of at least 0."),
    ("loss.alpha=1e39", "config.loss.alpha is 1e+39; it must be a finite number"),
    ("loss.temperature=0", "loss.temperature is 0.0; it must be a finite number of at least 1e-06"),
    ("optimizer.learning_rate=-0.1", "learning_rate is -0.1; it must be a finite number of at"),
    ("optimizer.b2=1", "config.optimizer.b2 is 1.0; it must be a finite number from 0 to 0.999999"),
    ("optimizer.epsilon=0", "epsilon is 0.0; it must be a finite number of at least 1e-30."),
    ("model.dropout=1", "config.model.dropout is 1.0; it must be a finite number from 0 to 0.99."),
    ("model.num_heads=0", "config.model.num_heads is 0; it must be a whole number of at least 1."),
    ("data.min_length=1", "data.min_length is 1; it must be a whole number of at least 2."),
    ("data.min_length=3", "two to hold out; it must be a whole number of at least 4."),
    ("data.min_plays=0", "config.data.min_plays is 0; it must be a whole number of at least 1."),
    ("data.skip_below_percent=101", "it must be a finite number from 0 to 100."),
    ("data.temporal.test_hours=0", "test_hours is 0.0; it must be a finite number from 0.001 to"),
    ("data.temporal.gap_minutes=-1", "gap_minutes is -1.0; it must be a finite number from 0 to"),
    ("data.demo.num_tracks=99", "num_tracks is 99; it must be a whole number from 100 to 50000000"),
    ("data.demo.skip_share=1", "skip_share is 1.0; it must be a number from 0 to below 1;"),
    ("train.patience=0", "config.train.patience is 0; it must be a whole number of at least 1."),
    ("train.num_epochs=2147483648", "num_epochs is 2147483648; it must be a whole number"),
    ("eval.seed=-1", "config.eval.seed is -1; it must be a whole number from 0 to"),
    ("eval.num_candidates=9", "num_candidates is 9; it must be a whole number of at least 10."),
    # No such field or choice.
    ("los.alpha=1", "there is no field config.los.alpha. Did you mean config.loss.alpha?"),
    ("train.epochs=1", "there is no field config.train.epochs. Did you mean config.train.num_ep"),
    ("loss=1", "there is no field config.loss."),
    ("data.source=msd", "config.data.source is 'msd'; choose one of 'demo', 'mssd', 'yambda', "),
    ("data.source=msd", "Did you mean 'mssd'?"),
    (
        "data.split=leave-one-out",
        "choose one of 'leave_one_out', 'temporal'. Did you mean 'leave_o",
    ),
    ("data.split=time", "config.data.split is 'time'; choose one of 'leave_one_out', 'temporal'."),
    ("data.split=temporal data.min_length=1", "min_length is 1; it must be a whole number of at l"),
    (
        "data.labels=suffled",
        "choose one of 'logged', 'shuffled', 'ignored'. Did you mean 'shuffled'?",
    ),
    ("model.activation=RELU", "is 'RELU'; choose one of 'relu', 'gelu'."),
    ("model.positions=end", "choose one of 'from_end', 'absolute'. Did you mean 'from_end'?"),
    ("loss.context=tracks", "choose one of 'track', 'hidden'. Did you mean 'track'?"),
    ("loss.anchors=", "config.loss.anchors is ''; choose one of 'all', 'played'."),
    ("loss.negatives=others", "config.loss.negatives is 'others'; choose one of 'own', 'future'"),
    ("loss.polarity=skip", "Did you mean 'skipped'?"),
    ("loss.target=played", "config.loss.target is 'played'; choose one of 'next', 'next_played'."),
    ("loss.skipped_target=recomend", "Did you mean 'recommend'?"),
    ("sampling.scope=sesion", "Did you mean 'session'?"),
    ("optimizer.decay=cosin", "Did you mean 'cosine'?"),
    ("optimizer.table=sparse", "choose one of 'deferred', 'dense', 'lazy'."),
    ("eval.precision=float16", "choose one of 'float32', 'bfloat16'. Did you mean 'bfloat16'?"),
    ("eval.metrics=('hr@0',)", "metrics is ('hr@0',): there is no metric 'hr@0'; name hr@K, ndcg"),
    ("eval.metrics=hr@5,mrr", "there is no metric 'hr@5,mrr'; name hr@K, ndcg@K, mrr or mrr@K"),
    ("eval.metrics=('auc',)", "config.eval.metrics is ('auc',): there is no metric 'auc'; name"),
    ("eval.metrics=()", "config.eval.metrics is (); it must be a tuple of one metric at least."),
    ("name=", "config.name is ''; it must be the name of a folder"),
    ("name=../elsewhere", "config.name is '../elsewhere'; it must be the name of a folder"),
    ("data.cache_dir=", "config.data.cache_dir is ''; it must be text of one line, and not empty."),
    ("data.path=a\nb", r"config.data.path is 'a\nb'; it must be text of one line."),
    ("data.path=a\u2028b", "it must be text of one line."),
    ("data.path=a\x85b", "it must be text of one line."),
    # Fields that do not go together.
    ("model.num_heads=3", "model.width (16) must be divisible by config.model.num_heads (3)."),
    (
        "data.max_length=4 data.min_length=5",
        "min_length is 5, more than config.data.max_length (4)",
    ),
    ("loss.alpha=0 loss.beta=0", "alpha and config.loss.beta are both 0: nothing to learn; raise"),
    ("eval.metrics=('hr@101',)", "has 'hr@101', but config.eval.num_candidates is 100; lower the"),
    ("eval.num_candidates=15", "has 'hr@20', but config.eval.num_candidates is 15; lower the cut"),
    ("data.path=logs", "path is 'logs', but config.data.source is 'demo', which reads no files;"),
    (
        "loss.target=next_played loss.skipped_weight=0.5",
        "set the one to 1.0 or the other to 'next'",
    ),
    ("loss.negatives=shifted train.batch_size=1", "which needs another session in the batch, but"),
    # More than any memory.
    (
        "model.width=1000000000",
        "config.model.width (1000000000), config.model.feedforward_width (16) and "
        "config.model.num_layers (2) make parameters and Adam's moments of 96,000,",
    ),
    ("model.feedforward_width=2000000000", "feedforward_width (2000000000) and config.model.num_"),
    ("model.num_layers=2000000000", "and config.model.num_layers (2000000000) make parameters and"),
    ("data.max_length=2000000000", "width (16) and config.data.max_length (2000000000) make"),
    ("optimizer.b1=0.99 optimizer.b2=0.9", "deferred Adam needs b1² < b2. Lower b1, or set"),
]


@pytest.mark.parametrize(("flags", "expected"), MISTAKES)
def test_a_mistake_in_a_flag_is_one_line(flags, expected):
    """By the path that main.py takes."""
    arguments = [f"--config.{flag}" for flag in flags.split(" ")]
    config = str(ROOT / "configs" / "tiny.py")
    said = refusal(lambda: check_config(config_of(config, arguments)))
    assert expected in said
    assert "config." in said


@pytest.mark.parametrize(
    "flags", ["train.batch_size=x", "data.skip_levels=(7,)", "data.path=a\nb", "model.num_heads=3"]
)
def test_main_says_no_more_and_leaves_nothing(tmp_path, flags):
    command = [
        "main.py",
        "--config=configs/tiny.py",
        f"--config.{flags}",
        f"--workdir={tmp_path}/w",
    ]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("skipjax: ")
    assert dict(MISTAKES)[flags] in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def get_config():\n    return {}\n", "get_config() returns a dict; it must return a Con"),
        ("def get_config():\n    raise KeyError('a\\n\\nb')\n", "fails: KeyError: "),
        ("get_config = 5\n", "fails: TypeError: 'int' object is not callable."),
        ("def get_config(:\n", "fails: SyntaxError: "),
        ("x = 5\n", "fails: KeyError: 'get_config'."),
    ],
)
def test_a_config_file_that_cannot_be_run_is_one_line(tmp_path, text, expected):
    path = tmp_path / "mine.py"
    path.write_text(text)
    said = refusal(lambda: config_of(str(path), []))
    assert said.startswith(f"--config={path}")
    assert expected in said


def test_a_space_may_stand_for_the_equals_sign():
    config = config_of(str(ROOT / "configs" / "tiny.py"), ["--config.seed", "3"])
    assert config.seed == 3


def test_what_does_not_fit_into_memory_is_named(split, monkeypatch):
    config = small()
    config.model.width = 64
    said = refusal(lambda: check_data_limits(config, split, 100_000))
    layers = config.model.num_layers * (4 * 64 + 2 * config.model.feedforward_width) * 64
    needed = 12 * (64 * 60 + 64 * config.data.max_length + layers)
    assert said.endswith(
        f"make parameters and Adam's moments of {needed:,} bytes, but there are 100,000 bytes of "
        "memory; lower one of them."
    )
    config.model.update(width=2, feedforward_width=2, num_layers=1)
    said = refusal(lambda: check_data_limits(config, split, 1_000))
    assert said.startswith("config.model.width (2) and 60 tracks make parameters")
    check_data_limits(config, split, 12 * (2 * 60 + 2 * 20 + 12 * 2))
    monkeypatch.setattr("skipjax.memory.physical_bytes", lambda: 40_000)
    said = refusal(lambda: check_limits(load("tiny")))
    assert said.startswith("config.data.demo.num_tracks is 300, which takes 45,000 bytes to draw")


@pytest.fixture(scope="module")
def split():
    """30 sessions; 60 tracks."""
    sessions = make_sessions(random_listening(np.random.default_rng(0), num_sessions=30))
    return leave_one_out(sessions, min_length=4, max_length=20, skip_levels=(1, 2))


def small():
    """A config that the split can satisfy, just."""
    config = load("tiny")
    config.update(
        train={"batch_size": 30, "num_epochs": 4},
        sampling={"num_negatives": 50},
        optimizer={"decay": "cosine", "warmup_steps": 3},
        eval={"keep_top": 60},
    )
    return config


def test_what_the_data_can_give_may_be_asked(split):
    assert (split.num_sessions, split.num_ids - 2) == (30, 60)
    check_data_limits(small(), split)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"train.batch_size": 31},
            "config.train.batch_size is 31, but there are only 30 sessions to train on; lower it "
            "to 30 at most, or use more data.",
        ),
        (
            {"sampling.num_negatives": 60},
            "config.sampling.num_negatives is 60, but there are only 60 tracks to draw from; lower "
            "it to less, or set config.sampling.scope to 'full', which takes them all.",
        ),
        ({"sampling.num_negatives": 60, "sampling.scope": "full"}, None),
        (
            {"eval.keep_top": 61},
            "config.eval.keep_top is 61, but there are only 60 tracks; lower it to 60 at most.",
        ),
        (
            {"optimizer.warmup_steps": 4},
            "config.optimizer.warmup_steps is 4, but the run and its cosine decay end after 4 "
            "steps (4 epochs of 1); lower it below 4, or raise config.train.num_epochs.",
        ),
        ({"optimizer.warmup_steps": 4, "optimizer.decay": "constant"}, None),
        (
            {"train.num_epochs": 2**30, "train.batch_size": 10},
            "config.train.num_epochs is 1073741824, of 3 steps each; lower it to 715827882 at "
            "most.",
        ),
    ],
)
def test_what_the_data_cannot_give_is_named(split, changes, expected):
    config = small()
    for field, value in changes.items():
        put(config, field, value)
    check_limits(config)
    if expected is None:
        check_data_limits(config, split)
    else:
        assert refusal(lambda: check_data_limits(config, split)) == expected


def test_fields_are_those_of_every_section():
    config = ConfigDict({"a": 1, "b": {"c": {"d": 2}, "e": 3}})
    assert dict(fields(config)) == {"a": 1, "b.c.d": 2, "b.e": 3}
