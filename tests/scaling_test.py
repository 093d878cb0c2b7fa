"""The benchmark of several devices: bytes counted right, and a model that follows its formula."""

import sys

import numpy as np
import pytest

from benchmarks import scaling, scaling_counts, scaling_model
from benchmarks.collectives import Collective, Program, sent_by_kind

HEADER = "HloModule made_by_hand, is_scheduled=true, num_partitions=8\n"

LOOP = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (s32[], f32[4,6])) -> (s32[], f32[4,6]) {
  %state = (s32[], f32[4,6]{1,0}) parameter(0)
  %x = f32[4,6]{1,0} get-tuple-element(%state), index=1
  %part = f32[2,6]{1,0} reduce-scatter(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %whole = f32[4,6]{1,0} all-gather(%part), replica_groups=[4,2]<=[8], dimensions={0}
  %i = s32[] get-tuple-element(%state), index=0
  ROOT %next = (s32[], f32[4,6]{1,0}) tuple(%i, %whole)
}

%condition (state.1: (s32[], f32[4,6])) -> pred[] {
  %state.1 = (s32[], f32[4,6]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (x.1: f32[4,6]) -> f32[4,6] {
  %x.1 = f32[4,6]{1,0} parameter(0)
  %start = (s32[], f32[4,6]{1,0}) tuple(%zero, %x.1)
  %loop = (s32[], f32[4,6]{1,0}) while(%start), condition=%condition, body=%body, KNOWN
  ROOT %out = f32[4,6]{1,0} get-tuple-element(%loop), index=1
}
"""


def entry(*lines):
    return HEADER + "\nENTRY %main (p: f32[]) -> f32[] {\n" + "\n".join(lines) + "\n}\n"


def sent(*lines):
    return sent_by_kind(Program(entry(*lines)).collectives())


def test_what_each_collective_sends():
    x = "  %x = f32[3,5]{1,0} parameter(0)"
    groups = "replica_groups={{0,1,2,3},{4,5,6,7}}"
    n = 3 * 5 * 4
    for kind, wanted in [
        ("all-reduce", 2 * 3 / 4 * n),
        ("reduce-scatter", 3 / 4 * n),
        ("all-to-all", 3 / 4 * n),
        ("all-gather", 3 * n),
    ]:
        assert sent(x, f"  %y = f32[1] {kind}(%x), {groups}") == {f"{kind} over 4": wanted}
    pairs = "source_target_pairs={{0,1},{1,0}}"
    moved = sent(x, f"  %y = f32[3,5]{{1,0}} collective-permute(%x), {pairs}")
    assert moved == {"collective-permute over 2": n}
    stay = "source_target_pairs={{0,0},{1,1}}"
    assert sent(x, f"  %y = f32[3,5]{{1,0}} collective-permute(%x), {stay}") == {}


def test_forms_in_which_programs_say_the_same():
    x, z = "  %x = bf16[6]{0} parameter(0)", "  %z = pred[10]{0} parameter(1)"
    both = 6 * 2 + 10
    # Several operands, all devices, in two halves that are one.
    start = "  %s = ((bf16[6], pred[10]), /*index=1*/(bf16[48]{0:T(256)}, pred[80])) "
    start += 'all-gather-start(%x, %z), replica_groups={}, metadata={op_name="a/b"}'
    done = "  %y = (bf16[48], pred[80]) all-gather-done(%s)"
    assert sent(x, z, start, done) == {"all-gather over 8": 7 * both}
    # Shapes beside the names, and no sigils.
    line = "  y = (bf16[6]{0}, pred[10]{0}) all-reduce(bf16[6]{0} x, pred[10]{0} z), "
    assert sent(line + "replica_groups=[2,4]<=[4,2]T(1,0)") == {
        "all-reduce over 4": 2 * 3 / 4 * both
    }
    assert sent(x, "  %y = bf16[6] all-reduce(%x), replica_groups={{0},{1}}") == {}
    gather = "  %y = bf16[6] all-gather(%x), replica_groups=mesh['data'=2,'tracks'=4] "
    assert sent(x, gather + "{'tracks'}, dimensions={0}") == {"all-gather over 4": 3 * 12}
    assert sent(x, gather + "{'data','tracks'}, dimensions={0}") == {"all-gather over 8": 7 * 12}


def test_a_loop_sends_as_often_as_it_turns():
    known = 'backend_config={"known_trip_count":{"n":"5"},"x":{}}'
    found = Program(HEADER + LOOP.replace("KNOWN", known)).collectives()
    assert [one.times for one in found] == [5, 5]
    whole, half = 4 * 6 * 4, 2 * 6 * 4
    assert sent_by_kind(found) == {
        "all-gather over 2": 5 * half,
        "reduce-scatter over 2": 5 * whole / 2,
    }
    with pytest.raises(ValueError, match="unknown length"):
        Program(HEADER + LOOP.replace(", KNOWN", "")).collectives()


def test_what_cannot_be_counted_is_refused():
    line = "  %y = f32[9]{0} ragged-all-to-all(%x), replica_groups={}"
    with pytest.raises(ValueError, match="cannot be counted"):
        Program(entry("  %x = f32[9]{0} parameter(0)", line)).collectives()
    line = "  %y = f32[9]{0} all-gather(%x), replica_groups=of_another_kind"
    with pytest.raises(ValueError, match="not understood"):
        Program(entry("  %x = f32[9]{0} parameter(0)", line)).collectives()
    with pytest.raises(ValueError, match="no ENTRY"):
        Program(HEADER)


def test_arrays_within_a_fusion_are_not_made():
    fused = "\n%fused (a: f32[2]) -> f32[2] {\n  %big = f32[9999]{0} broadcast(%a)\n}\n"
    text = fused + "\nENTRY %main (x: f32[2]) -> f32[2] {\n"
    text += "  %x = f32[2]{0} parameter(0)\n  ROOT %y = f32[2]{0} fusion(%x), calls=%fused\n}\n"
    assert Program(HEADER + text).arrays() == {"f32[2]": 8}


def sizes(**changes):
    given = {"sessions": 2, "length": 3, "width": 4, "num_params": 10, "negatives": 5}
    return scaling_counts.Sizes(**{**given, "scope": "session", "causal": True, **changes})


def test_a_step_is_designed_to_send_what_a_hand_counts():
    n, row = 2 * (3 + 5), 4 * 4
    designed = sum(one.sent for one in scaling_counts.designed_step(sizes(), 2, 2))
    read, write = (2 - 1) * n * (4 + row), (4 - 1) * n * (4 + row)
    assert designed == read + write + 2 * 3 / 4 * 4 * (10 + 5)
    shared = sizes(scope="batch", causal=False)  # 5 negatives and MASK
    designed = sum(one.sent for one in scaling_counts.designed_step(shared, 1, 2))
    own, common = 2 * 2 * 3 * (4 + row) / 2, 2 * 1 / 2 * 6 * row
    assert designed == 2 * own + 2 * common + 2 * 1 / 2 * 4 * (10 + 5)


def test_the_least_that_a_step_needs():
    # Of two devices that share 10 rows, one reads rows 2 and 7, the other 7 twice; both read 8.
    ids = [np.array([2, 7]), np.array([7, 7]), np.array([8])]
    row, encoder = 4 * 4, 4 * 10  # of two devices, each sends all of its gradients once
    first = (row + 4) + row  # reads 7 and 8; no gradient of its rows comes from elsewhere
    second = row + row  # has 7 and 8, whose gradients come from the first
    found = scaling_counts.least_step(ids, sizes(), 2, 5)
    assert found == (first + second) / 2 + encoder
    # Where each has all rows, gradients of 2, 7 and 8 come to the one that does not have them.
    copies = scaling_counts.least_step(ids, sizes(), 1, 10)
    assert copies == (2 * row + 3 * row) / 2 + encoder


def test_expected_and_counted_agree(rng):
    some, num_ids = sizes(sessions=40), 1000
    ids = [rng.integers(num_ids, size=some.own) for _ in range(8)] + [np.array([], int)]
    counted = scaling_counts.least_step(ids, some, 4, num_ids // 4)
    expected = scaling_counts.expected_least_step(some, 2, 4, num_ids)
    np.testing.assert_allclose(counted, expected, rtol=0.02)


def test_the_model_follows_its_formula():
    hardware = scaling_model.Hardware(
        memory_bytes=1e5,
        memory_share_used=0.5,
        flops=100.0,
        flops_share=0.5,
        memory_rate=1000.0,
        memory_share=0.25,
        gpus_per_node=2,
        nvlink=400.0,
        network=40.0,
        link_share=0.5,
        latency=0.125,
    )
    found = scaling_model.step_time(sizes(), 25.0, 7.0, 1000, 4, 2, hardware)
    n, row = 16, 16
    assert found["compute_seconds"] == 25 / 50
    read, write = n * (4 + row), 3 * n * (4 + row) + 2 * 3 / 4 * 4 * (10 + 5)
    # Two collectives within a node, four beyond, of twice as many devices.
    latency = 2 * 0.125 + 4 * 2 * 0.125
    np.testing.assert_allclose(found["communication_seconds"], read / 200 + write / 20 + latency)
    touched = 1000 / 2 * (1 - (1 - 1 / 1000) ** (4 * n))
    moved = row * (2 * n + 4 * n + 7 * touched) + 64 * 4 * n + 3 * row * 4 * n
    np.testing.assert_allclose(found["update_seconds"], moved / 250)
    assert found["memory_bytes"] == 500 * (3 * row + 8) + 12 * 10 + 7 + 2 * 4 * n * row
    assert found["fits"]
    rows = scaling_model.grid(sizes(), 25.0, 7.0, 1000, 4, hardware)
    assert [(one["gpus"], one["tracks"]) for one in rows] == [
        *((1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4))
    ]
    for one in scaling_model.best(rows):
        same = [row for row in rows if row["gpus"] == one["gpus"] and row["fits"]]
        assert one["seconds"] == min(row["seconds"] for row in same)
    assert set(scaling_model.SOURCES) == set(scaling_model.Hardware.__dataclass_fields__)


def test_what_must_not_be_is_said():
    step = {"data": 2, "tracks": 4, "bytes_by_kind": {"a": 1.0}, "designed_by_kind": {"a": 1.0}}
    assert not scaling._problem({"results": {"losses": [{**step, "apart": 1e-5}]}})
    for name, wrong, said in [
        ("weak", {"bytes_by_kind": {"a": 2.0}}, "not send what it is designed to"),
        ("weak", {"holds_full_table": True}, "as long as the whole table"),
        ("losses", {"apart": 1e-3}, "more than 0.0001"),
        ("losses", {"apart": float("nan")}, "more than 0.0001"),
        ("ranking", {"differing": {"valid": 0.5}}, "ranks differ"),
    ]:
        assert said in scaling._problem({"results": {name: [{**step, **wrong}]}})


def test_no_largest_table_without_a_gpu(monkeypatch, tmp_path):
    """Nothing is made up where there is no GPU."""
    monkeypatch.setattr(scaling, "ask", lambda spec: iter([{"platform": "cpu"}]))
    saved = tmp_path / "largest.json"
    monkeypatch.setattr(sys, "argv", ["scaling", "--largest", "--json", str(saved)])
    with pytest.raises(SystemExit, match="no GPU here"):
        scaling.main()
    assert not saved.exists()


def test_sending_nothing_to_oneself():
    assert Collective("all-gather", 1, 100).sent == 0
