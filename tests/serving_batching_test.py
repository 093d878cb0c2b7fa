"""Sessions that wait are answered together, each as if it had come alone."""

import dataclasses
import threading

import jax
import numpy as np
import pytest
import runs
from services import NAMES, recommender

from skipjax import trained
from skipjax.errors import DataError
from skipjax.recommend import Recommender
from skipjax.serving.answering import BATCH, Answerer
from skipjax.serving.batching import Full, Worker
from skipjax.serving.export import export

KINDS = [(1, True), (20, False), (60, True)]


@dataclasses.dataclass
class Session:
    tracks: list
    skipped: list | None = None


def random_session(rng, names=NAMES):
    tracks = rng.choice([*names, "who", "knows"], rng.integers(0, 40)).tolist()
    return Session(tracks, (rng.random(len(tracks)) < 0.5).tolist() if rng.random() < 0.5 else None)


@pytest.fixture
def make(monkeypatch):
    """Makes workers that are not warm, which costs less, but start when they are told to."""
    monkeypatch.setattr(Answerer, "warm_up", lambda *_: 0.0)
    made = []

    def make(reads_skips=True, **options):
        made.append(Worker(recommender(reads_skips), **options))
        return made[-1]

    yield make
    for worker in made:
        if not worker.ready.done():
            worker.start()
        worker.close()


def answers(futures):
    return [best for future in futures for best in future.result(60)]


@pytest.mark.parametrize("reads_skips", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_together_as_alone(make, rng, reads_skips):
    """Bit for bit, on a CPU; and what Recommender gives, whatever k was compiled."""
    batches, took = [], []

    def observe(number, seconds):
        batches.append(number)
        took.append(seconds)

    worker = make(reads_skips, observe=observe)
    asks = [
        ([random_session(rng) for _ in range(rng.integers(1, 4))], *KINDS[i % len(KINDS)])
        for i in range(30)
    ]
    waiting = [worker.recommend(*ask) for ask in asks]
    assert worker.waiting == sum(len(sessions) for sessions, _, _ in asks)
    worker.start()
    together = [answers(futures) for futures in waiting]
    assert batches == [sum(len(sessions) for sessions, _, _ in asks)]
    assert worker.waiting == 0
    assert 0 < took[0] < 60
    for (sessions, k, exclude_seen), found in zip(asks, together, strict=True):
        assert answers(worker.recommend(sessions, k, exclude_seen)) == found
        if k == 1:
            continue  # which the loop below would have to compile
        for session, best in zip(sessions, found, strict=True):
            skipped = None if session.skipped is None else [session.skipped]
            table = recommender(reads_skips).recommend(
                [session.tracks], k, exclude_seen, skipped=skipped
            )
            assert best.track_ids == table["track_id"].to_pylist()
            assert best.scores == table["score"].to_pylist()
            assert best.unknown == [t for t in dict.fromkeys(session.tracks) if t not in NAMES]
            assert best.fallback == (not set(session.tracks) & set(NAMES))


def test_a_large_request_is_split(make, rng):
    batches = []
    worker = make(observe=lambda number, seconds: batches.append(number))
    sessions = [random_session(rng) for _ in range(2 * BATCH + 10)]
    whole, last = worker.recommend(sessions, 3, True), worker.recommend(sessions[:5], 3, True)
    worker.start()
    assert answers(whole)[:5] == answers(last)
    assert len(answers(whole)) == len(sessions)
    assert batches == [BATCH, BATCH, 15]


def test_no_more_waits_than_may(make):
    worker = make(most_waiting=10)
    first = worker.recommend([Session(["t001"])] * 8, 3, True)
    with pytest.raises(Full, match="8 sessions wait already; try again in 1 s") as error:
        worker.recommend([Session(["t001"])] * 3, 3, True)
    assert error.value.seconds == 1
    assert worker.waiting == 8
    rest = [*worker.recommend([Session(["t002"])], 3, True), worker.similar("t003", 3)]
    with pytest.raises(Full):
        worker.similar("t003", 3)
    worker.start()
    assert len(answers(first)) == 8
    for future in rest:
        future.result(60)
    assert len(answers(worker.recommend([Session(["t001"])] * 10, 3, True))) == 10


@pytest.mark.parametrize("exported", [False, True])
def test_nothing_is_compiled_once_it_is_warm(rng, tmp_path, exported):
    model, kinds = recommender(True), KINDS
    if exported:  # for one k, as it has many sizes of batches
        kinds = [(3, True), (20, False)]
        runs.make_run(tmp_path / "run", runs.tiny(skip_embedding=True), len(NAMES))
        export(trained.read(tmp_path / "run"), tmp_path / "model", ks=[20])
        model = Recommender.load(tmp_path / "model")
    names = model.model.catalogue.track_ids.to_pylist()
    compiled = []

    def listen(event, seconds, **_):
        if "compile" in event:
            compiled.append(event)

    worker = Worker(model)
    worker.start()
    worker.ready.result(300)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for number in (1, 5, 64, 70, 129, BATCH):
            for k, exclude_seen in kinds:
                sessions = [random_session(rng, names) for _ in range(number)]
                answers(worker.recommend(sessions, k, exclude_seen))
        long = [Session(rng.choice(names, 300).tolist(), [True] * 300)]
        answers(worker.recommend(long * BATCH, 20, True))
        worker.similar(names[3], 20).result(60)
        assert not compiled
        worker.answerer.model.best(
            np.zeros((3, 16), np.float32), None, 5
        )  # or the listener hears nothing
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
        worker.close()


def test_similar_is_what_the_recommender_finds(make):
    worker = make()
    worker.start()
    found = worker.similar("a/b", 5).result(60)
    assert found.equals(recommender(True).similar("a/b", 5))
    with pytest.raises(DataError, match="no track 'x'"):
        worker.similar("x", 5).result(60)


def test_what_fails_is_raised_there_alone(make, monkeypatch):
    worker = make()
    tables = worker.answerer._recommender.tables

    def failing(histories, *rest):
        if "t013" in histories[0].tracks.to_pylist():
            raise RuntimeError("a fault")
        return tables(histories, *rest)

    monkeypatch.setattr(worker.answerer._recommender, "tables", failing)
    worker.start()
    (bad,) = worker.recommend([Session(["t013"])], 3, True)
    with pytest.raises(RuntimeError, match="a fault"):
        bad.result(60)
    assert answers(worker.recommend([Session(["t001"])], 3, True))[0].scores


def test_nobody_waits_for_what_is_cancelled(make):
    batches = []
    worker = make(observe=lambda number, seconds: batches.append(number))
    gone, here = (worker.recommend([Session(["t001"])], 3, True)[0] for _ in range(2))
    alone = worker.similar("t001", 2)
    assert gone.cancel()
    assert alone.cancel()
    worker.start()
    assert here.result(60)
    worker.close()
    assert batches == [1]


def test_closing_answers_what_waits(make):
    worker = make()
    futures = worker.recommend([Session(["t001"])] * 600, 3, True)
    worker.start()
    worker.close()
    assert all(future.done() for future in futures)


def test_closing_stops_the_warming_up(monkeypatch):
    """At the next shape, of which there are dozens."""
    begun, go_on, shapes = threading.Event(), threading.Event(), []

    def best(self, asked, *_):
        shapes.append(len(asked))
        begun.set()
        assert go_on.wait(60)

    monkeypatch.setattr(Answerer, "_best", best)
    worker = Worker(recommender(True))
    worker.start()
    assert begun.wait(60)
    closing = threading.Thread(target=worker.close)
    closing.start()
    while not worker._closed:
        pass
    go_on.set()
    closing.join()
    assert len(shapes) == 1


def test_a_model_that_cannot_be_warmed_up_says_so(monkeypatch):
    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(Answerer, "warm_up", fail)
    worker = Worker(recommender(True))
    worker.start()
    with pytest.raises(MemoryError, match="no room"):
        worker.ready.result(60)
    assert not worker.warm
    worker.close()
