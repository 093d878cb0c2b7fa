import json

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
