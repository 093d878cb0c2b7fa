"""Whether there is enough for what the config asks of the data."""

from skipjax.audit.data import Data
from skipjax.audit.finding import Finding, listed, scarce
from skipjax.audit.thresholds import FEW_TESTS_SERIOUS, FEW_TESTS_WARNING
from skipjax.data.inputs import counted
from skipjax.data.parts import Split
from skipjax.ids import FIRST_TRACK_ID
from skipjax.study.wording import decimal


def too_few(data: Data, in_time: Split | None) -> Finding:
    """Fields of the config that ask for more tracks or sessions than there are."""
    config = data.config
    split = in_time if config.data.split == "temporal" and in_time is not None else data.split
    tracks, longest = split.num_ids - FIRST_TRACK_ID, int(split.lengths.max())
    training = len(split.parts["train"].sessions)
    outside = max(tracks - longest, 0)  # of a session at least
    wrong, flags = [], []
    if config.data.max_length < longest:
        wrong.append(
            f"config.data.max_length is {config.data.max_length:,}, but sessions have up to "
            f"{counted(longest, 'track')}"
        )
        flags.append(f"--config.data.max_length={longest}")
    if config.eval.num_candidates > outside:
        wrong.append(
            f"config.eval.num_candidates is {config.eval.num_candidates:,}, but "
            + (
                f"only {counted(outside, 'track is', 'tracks are')} sure to be outside a session"
                if outside
                else "a session may have all the tracks there are"
            )
        )
        if outside >= 1:
            flags.append(f"--config.eval.num_candidates={outside}")
    if config.sampling.scope != "full" and config.sampling.num_negatives >= tracks:
        wrong.append(
            f"config.sampling.num_negatives is {config.sampling.num_negatives:,}, but there are "
            f"only {counted(tracks, 'track')}"
        )
        flags.append("--config.sampling.scope=full")
    if config.train.batch_size > training:
        wrong.append(
            f"config.train.batch_size is {config.train.batch_size:,}, but there are only "
            f"{counted(training, 'session')} to train on"
        )
        flags.append(f"--config.train.batch_size={training}")
    tests = len(split.parts["test"].sessions)
    numbers = {
        "tracks": tracks,
        "training_sessions": training,
        "test_sessions": tests,
        "longest_session": longest,
        "max_length": config.data.max_length,
        "num_candidates": config.eval.num_candidates,
        "num_negatives": config.sampling.num_negatives,
        "batch_size": config.train.batch_size,
        "flags": flags,
    }
    # Of a share of .2 among so many, 1.96 standard errors.
    margin = 1.96 * (0.2 * 0.8 / tests) ** 0.5
    said = f"with {counted(tests, 'test session')}, an HR@10 of .2 is known to ± "
    said += decimal(margin, 3)
    if wrong:
        advice = f"Train with {' '.join(flags)}." if flags else ""
        if outside < 10:
            advice = "There are too few tracks to rank a target among; use more data."
        return Finding(
            "sizes",
            "Enough for the config",
            "serious",
            f"A run would stop at once: {listed(wrong)}; {said}.",
            numbers,
            advice,
        )
    return Finding(
        "sizes",
        "Enough for the config",
        scarce(tests, warning=FEW_TESTS_WARNING, serious=FEW_TESTS_SERIOUS),
        f"There are enough tracks and sessions for the config; {said}.",
        numbers,
        "Smaller differences between models than this are chance; a study compares them on the "
        "same sessions, which helps, but more sessions help more."
        if tests < FEW_TESTS_WARNING
        else "",
    )
