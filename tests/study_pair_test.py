"""Any two arms of a study: the statistics of study_statistics_test.py, on a study's own file."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from skipjax.cli.main import main
from skipjax.errors import ConfigError, DataError
from skipjax.study import statistics
from skipjax.study.pair import compare_arms

SEEDS = {"good": (5, 6, 7), "bad": (0, 1), "markov": (0,)}
SESSIONS = 200


@pytest.fixture
def ranks(rng):
    """{arm: {ranking: [R, S]}}."""
    worst = {"good": 12, "bad": 60, "markov": 60}
    return {
        arm: {
            ranking: rng.integers(1, times * worst[arm], size=(len(seeds), SESSIONS))
            for ranking, times in (("sampled", 1), ("full", 3))
        }
        for arm, seeds in SEEDS.items()
    }


def table_of(ranks, rng):
    rows = [
        {"session_id": f"s{i}", "arm": arm, "seed": seed}
        | {f"rank_{ranking}": int(of[r, i]) for ranking, of in ranks[arm].items()}
        for arm, seeds in SEEDS.items()
        for r, seed in enumerate(seeds)
        for i in range(SESSIONS)
    ]
    table = pa.Table.from_pylist([rows[i] for i in rng.permutation(len(rows))])
    return table.set_column(1, "arm", table["arm"].dictionary_encode())


@pytest.fixture
def path(ranks, rng, tmp_path):
    path = tmp_path / "sessions.parquet"
    pq.write_table(table_of(ranks, rng), path, write_page_checksum=True)
    return path


@pytest.mark.parametrize(("metric", "k"), [("hr@10", 10), ("recall@3", 3)])
@pytest.mark.parametrize(("arm", "base"), [("good", "bad"), ("markov", "good")])
def test_it_is_the_comparison_of_what_the_file_holds(path, ranks, arm, base, metric, k):
    pairs = compare_arms(path, arm, base, metric=metric)
    assert [pair.measure for pair in pairs] == [f"test/hr@{k}", f"test_full/hr@{k}"]
    # By which numbers its sessions go, a resampling does depend on, though not by much.
    order = sorted(range(SESSIONS), key=lambda i: f"s{i}")
    for pair, ranking in zip(pairs, ("sampled", "full"), strict=True):
        of_arm, of_base = (
            (ranks[key][ranking] <= k)[:, order].astype(float) for key in (arm, base)
        )
        assert pair.found == statistics.compare(of_arm, of_base)
        assert pair.mean == pytest.approx(of_arm.mean())
        assert pair.base_mean == pytest.approx(of_base.mean())


def test_the_command_says_it(path, capsys):
    assert main(["compare", "good", "bad", "--workdir", str(path.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2] == "200 sessions; runs: 3 of good, 2 of bad"
    assert lines[0].startswith("good beats bad by ")
    assert " HR@10 (sampled candidates), 95 % CI " in lines[0]
    assert ", uncorrected p = .00" in lines[0]
    assert main(["compare", "bad", "good", "--workdir", str(path.parent), "--metric=MRR"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("bad is worse than good by ")
    assert " in MRR (all tracks), 95 % CI " in lines[1]


@pytest.mark.parametrize("arm", ["good", "most_popular"])
def test_a_seed_that_is_not_counted_is_said(path, arm):
    """But not of a baseline, which has none."""
    rows = pq.read_table(path)
    keys = [arm if key == "markov" else key for key in rows["arm"].to_pylist() if key != "good"]
    rows = rows.filter(pc.not_equal(rows["arm"].cast(pa.string()), "good"))
    pq.write_table(rows.set_column(1, "arm", pa.array(keys)), path)
    for pair in compare_arms(path, arm, "bad"):
        assert pair.found.num_seeds == (1, 2)
        said = " One run of good, so its seed is not counted."
        assert pair.sentence.endswith(said) == (arm == "good")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("god", "bad"), ConfigError, r"has no arm 'god'; there are .*good.*Did you mean good\?"),
        (("good", "good"), ConfigError, "'good' is on both sides; name two arms"),
        (("good", "bad", "hits"), ConfigError, "there is no metric 'hits'"),
    ],
)
def test_what_cannot_be_compared(path, arguments, error, message):
    arm, base, *metric = arguments
    with pytest.raises(error, match=message):
        compare_arms(path, arm, base, **({"metric": metric[0]} if metric else {}))


@pytest.mark.parametrize(
    "what", ["missing", "elsewhere", "damaged", "empty", "of a run", "of other sessions"]
)
def test_files_that_are_none_of_a_study(path, what):
    message = "cannot be read"
    if what == "missing":
        path.unlink()
        message = r"sessions\.parquet is missing; name the workdir of a finished study"
    elif what == "elsewhere":
        path = path / "sessions.parquet"
        message = r"there is no folder .*sessions\.parquet; name the workdir of a finished study"
    elif what == "empty":
        rows = pq.read_table(path)
        ranks = pa.nulls(len(rows), pa.int32())
        index = rows.schema.get_field_index("rank_full")
        pq.write_table(rows.set_column(index, "rank_full", ranks), path)
        message = "column rank_full, has empty values; make it again"
    elif what == "damaged":
        path.write_bytes(path.read_bytes()[:-100])
    elif what == "of a run":
        pq.write_table(pq.read_table(path).drop_columns(["arm"]), path)
        message = "has no column 'arm', so it is not that of a study"
    else:
        rows = pq.read_table(path)
        first = rows["arm"].to_pylist().index("good")
        pq.write_table(pa.concat_tables([rows[:first], rows[first + 1 :]]), path)
        message = "does not have the same sessions of each run"
    with pytest.raises(DataError, match=message):
        compare_arms(path, "markov", "good")
