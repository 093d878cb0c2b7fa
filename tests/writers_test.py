import json
import os
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from skipjax.errors import OutputError
from skipjax.writers import MetricWriter


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_hold_step_epoch_seconds_and_metrics(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(3, 1, {"train/loss": 0.5})
    writer.close()
    (line,) = lines(tmp_path)
    assert line.pop("seconds") >= 0
    assert line == {"step": 3, "epoch": 1, "train/loss": 0.5}
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_going_on_takes_back_what_is_beyond_or_cut_or_of_a_test(tmp_path):
    whole = [{"step": step, "epoch": 1, "train/loss": 0.5} for step in (1, 2, 3)]
    test = {"step": 1, "epoch": 1, "test/hr@10": 0.5}
    text = "".join(json.dumps(line) + "\n" for line in [*whole, test])
    for cut in ('{"step": 1, "epo', '{"step": 1, "epoch": 1}'):  # no newline: cut short
        (tmp_path / "metrics.jsonl").write_text(text + cut)
        writer = MetricWriter(tmp_path, 2)
        writer.write(3, 1, {})
        writer.close()
        assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
        assert not any("test/hr@10" in line for line in lines(tmp_path))


def test_tensorboard_has_the_same_numbers_at_the_same_steps(tmp_path):
    for start in (0, 2):  # the second goes on after step 2
        writer = MetricWriter(tmp_path, start)
        writer.write(start + 1, 1, {"train/loss": 0.5 + start, "valid/hr@10": 0.25})
        writer.close()
    found = []
    for path in sorted((tmp_path / "tensorboard").glob("events.*")):
        for event in events(path):
            if event.session_log.status == SessionLog.START:
                found.append(("from", event.step))
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    assert found == [
        ("from", 1),
        ("train/loss", 1, 0.5),
        ("valid/hr_10", 1, 0.25),  # tags have no @
        ("from", 3),
        ("train/loss", 3, 2.5),
        ("valid/hr_10", 3, 0.25),
    ]


def events(path):
    """Of a TFRecord file: a length of 8 bytes, 4 of its checksum, the event, 4 of its checksum."""
    content = path.read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        yield Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("which", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_said_and_does_not_hang(tmp_path, which):
    writer = MetricWriter(tmp_path, 0)
    full = open("/dev/full", "a" if which == "metrics.jsonl" else "ab")  # noqa: SIM115
    path = tmp_path / which
    path = path if path.is_file() else next(path.iterdir())
    (number,) = [
        int(entry.name)
        for entry in Path("/proc/self/fd").iterdir()
        if os.path.realpath(entry) == str(path)
    ]
    whole = os.dup(number)
    os.dup2(full.fileno(), number)
    with pytest.raises(OutputError, match=r"metrics\.jsonl: cannot be written: No space"):
        writer.write(1, 1, {"train/loss": 0.5})
    os.dup2(whole, number)
    os.close(whole)
    writer.close()
    full.close()
