"""Tables and numbers in Markdown, against strings written by hand."""

import copy
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipjax.errors import DataError
from skipjax.study import markdown, wording


def metric(mean, std=None):
    return {"mean": mean, "std": std, "values": [mean]}


def compared(difference, low, high, p_holm, sentence):
    return {
        "difference": difference,
        "relative": difference / 0.4,
        "low": low,
        "high": high,
        "relative_low": low / 0.4,
        "relative_high": high / 0.4,
        "p": p_holm / 2,
        "p_holm": p_holm,
        "sentence": sentence,
    }


STUDY = {
    "name": "toy",
    "source": "toy logs",
    "synthetic": True,
    "sessions": 1200,
    "tracks": 345,
    "skipped_targets": 0.255,
    "digest": "abc123",
    "command": "python -m skipjax study --config=c.py",
    "environment": {"date": "2026-11-21", "jax": "0.10.2"},
    "family": "Holm's correction runs over 2 comparisons.",
    "arms": [
        {
            "key": "causal_none",
            "label": "causal S-",
            "group": "table1",
            "against": None,
            "seeds": [0, 1],
            "metrics": {
                "test/hr@1": metric(0.25, 0.0104),
                "test/hr@10": metric(0.4, 0.01),
                "test_full/hr@10": metric(0.2, 0.0),
                "test_full/mrr": metric(0.1, 0.002),
                "test_full/gap_mrr": metric(-0.0003, 0.001),
                "test_full/auc": metric(0.5, 0.01),
            },
            "comparisons": {},
        },
        {
            "key": "causal_track",
            "label": "causal S+ track",
            "group": "table1",
            "against": "causal_none",
            "seeds": [0, 1],
            "metrics": {
                "test/hr@1": metric(0.25004, 0.02),
                "test/hr@10": metric(0.42, 0.01),
                "test_full/hr@10": metric(0.19, 0.01),
                "test_full/mrr": metric(0.11, 0.003),
                "test_full/gap_mrr": metric(0.012, 0.001),
                "test_full/auc": metric(0.61, 0.02),
            },
            "comparisons": {
                "test/hr@10": compared(0.02, 0.005, 0.035, 0.012, "S+ track beats S- by 5.0 %."),
                "test_full/hr@10": compared(-0.01, -0.03, 0.01, 0.3, "No difference found."),
            },
        },
        {
            "key": "causal_hidden",
            "label": "causal S+ hidden",
            "group": "table1",
            "against": "causal_none",
            "seeds": [0],
            "metrics": {"test/hr@1": metric(0.2), "test/hr@10": metric(0.1)},
            "comparisons": {
                "test/hr@10": compared(-0.3, -0.4, -0.2, 0.0002, "S+ hidden is worse."),
            },
        },
        {
            "key": "popular",
            "label": "most popular",
            "group": "baseline",
            "against": None,
            "seeds": [0],
            "metrics": {"test/hr@10": metric(0.12345), "test_full/hr@10": metric(1.0)},
            "comparisons": {},
        },
    ],
}

EXPECTED = """\
**toy, synthetic data**

|  | causal S- | causal S+ hidden | causal S+ track |
| --- | ---: | ---: | ---: |
| HR@1, sampled | **.2500 ± .0104** | .2000 (−20.0 %) | **.2500 ± .0200** (0.0 %) |
| HR@10, sampled | .4000 ± .0100 | .1000 (−75.0 %) | **.4200 ± .0100** (+5.0 %) |
| HR@10, all tracks | **.2000 ± .0000** | – | .1900 ± .0100 (−5.0 %) |

Mean ± sample standard deviation over 1 to 2 seeds; in brackets the increase over S- of the same \
encoder; best of the encoder in bold.

#### The arms of Table 1

| arm | seeds | HR@10, sampled | HR@10, all tracks | MRR, all tracks | gap | AUC | against \
| difference in HR@10, sampled | difference in HR@10, all tracks |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| causal S- | 2 | .4000 ± .0100 | .2000 ± .0000 | .1000 ± .0020 | −.0003 ± .0010 \
| .5000 ± .0100 | – | – | – |
| causal S+ track | 2 | .4200 ± .0100 | .1900 ± .0100 | .1100 ± .0030 | .0120 ± .0010 \
| .6100 ± .0200 | causal S- | **+.0200** (.0050 to .0350; p = .012) \
| −.0100 (−.0300 to .0100; p = .300) |
| causal S+ hidden | 1 | .1000 | – | – | – | – | causal S- \
| **−.3000** (−.4000 to −.2000; p \\< .001) | – |

#### Baselines

| arm | seeds | HR@10, sampled | HR@10, all tracks | MRR, all tracks | gap | AUC |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| most popular | 1 | .1235 | 1.0000 | – | – | – |

Gap: MRR of played targets less MRR of skipped ones. AUC: how often a played target ranks above a \
skipped one (both among all tracks). Differences with their 95 % interval and p after Holm's \
correction, bold below .05.

Holm's correction runs over 2 comparisons.

#### In words

- HR@10 among sampled candidates: of 2 S+ arms, 1 beats S- and 1 is worse than S-.
- HR@10 among all tracks: no difference to S- was found for 1 S+ arm.
- S+ track beats S- by 5.0 %.
- No difference found.
- S+ hidden is worse.

Data: toy logs (synthetic sessions), 1,200 sessions, 345 tracks, 25.5 % of the test targets were \
skipped; digest `abc123`; seeds 0, 1; command `python -m skipjax study --config=c.py`; \
date 2026-11-21; jax 0.10.2.
"""


def test_a_study_is_written_as_expected():
    study = copy.deepcopy(STUDY)
    assert markdown.table1(study) == EXPECTED
    assert study == STUDY


def test_real_data_are_called_real():
    text = markdown.table1(STUDY | {"synthetic": False})
    assert text.startswith("**toy**\n")
    assert "Data: toy logs (real sessions, not synthetic), 1,200 sessions" in text
    text = markdown.table1({name: value for name, value in STUDY.items() if name != "synthetic"})
    assert "Data: toy logs (it is not said whether they are real), 1,200 sessions" in text


def test_what_was_split_and_skipped_is_said_where_it_says_something():
    study = {"source": "logs", "synthetic": False, "split": "leave-one-out", "cold_targets": 0.0}
    assert wording.data_text(study) == "logs (real sessions, not synthetic)"
    study |= {"split": "temporal: last 24 h, gap 30 min", "cold_targets": 0.0421}
    study |= {"skipped_targets": 0.25, "skipped_means": "played below 50 % or disliked"}
    assert wording.data_text(study) == (
        "logs (real sessions, not synthetic), 25.0 % of the test targets were skipped, skipped "
        "means played below 50 % or disliked, split temporal: last 24 h, gap 30 min, 4.2 % of the "
        "targets never seen in training"
    )


def test_a_study_needs_arms_and_nothing_else():
    for empty in ({}, {"arms": []}, {"arms": None}):
        with pytest.raises(DataError, match="no arms"):
            markdown.table1(empty)
    text = markdown.table1({"arms": [{"key": "only", "group": "table1"}]})
    assert "| only |" in text


@pytest.mark.parametrize(
    ("value", "plain", "with_sign", "in_percent"),
    [
        (0.2821, ".2821", "+.2821", "+28.2 %"),
        (-0.0123, "−.0123", "−.0123", "−1.2 %"),
        (0, ".0000", ".0000", "0.0 %"),
        (-0.00004, ".0000", ".0000", "0.0 %"),  # no signed zeros
        (0.00004, ".0000", ".0000", "0.0 %"),
        (1, "1.0000", "+1.0000", "+100.0 %"),
        (-12.5, "−12.5000", "−12.5000", "−1250.0 %"),
        (None, "–", "–", "–"),
        (float("nan"), "–", "–", "–"),
        (float("inf"), "–", "–", "–"),
    ],
)
def test_numbers(value, plain, with_sign, in_percent):
    assert wording.decimal(value) == plain
    assert wording.signed(value) == with_sign
    assert wording.percent(value) == in_percent


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.004, "p = .004"),
        (0.0004, "p < .001"),
        (0.0, "p < .001"),
        (0.25, "p = .250"),
        (0.9994, "p = .999"),
        (1.0, "p = 1"),
        (None, "p –"),
    ],
)
def test_p(p, expected):
    assert wording.p_value(p) == expected


@pytest.mark.parametrize(
    ("difference", "p_holm", "expected"),
    [
        (0.1, 0.049, "better"),
        (-0.1, 0.049, "worse"),
        (0.1, 0.05, "none"),
        (0.0, 0.0, "none"),
        (0.1, None, "none"),
        (None, 0.01, "none"),
    ],
)
def test_only_the_corrected_p_decides(difference, p_holm, expected):
    comparison = {"difference": difference, "p_holm": p_holm, "p": 0.0001, "low": 1, "high": 2}
    assert wording.verdict(comparison) == expected


def of_table1(*verdicts):
    """A study whose S+ arms have these (difference, p_holm) in HR@10 among all tracks."""
    found = [{"key": "s", "label": "S-", "group": "table1"}]
    for i, (difference, p_holm) in enumerate(verdicts):
        comparison = {"difference": difference, "p_holm": p_holm}
        found.append(
            {
                "key": f"p{i}",
                "label": f"S+ {i}",
                "group": "table1",
                "against": "s",
                "comparisons": {"test_full/hr@10": comparison},
            }
        )
    return {"arms": found}


BETTER, WORSE, NONE = (0.1, 0.01), (-0.1, 0.01), (0.1, 0.5)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([BETTER], "of 1 S+ arm, 1 beats S-"),
        ([BETTER, BETTER], "of 2 S+ arms, 2 beat S-"),
        (
            [WORSE, WORSE, NONE],
            "of 3 S+ arms, 2 are worse than S- and for 1 no difference was found",
        ),
        (
            [BETTER, NONE, WORSE, NONE],
            "of 4 S+ arms, 1 beats S-, 1 is worse than S- and for 2 no difference was found",
        ),
        ([NONE, NONE], "no difference to S- was found for 2 S+ arms"),
    ],
)
def test_headlines_count(verdicts, expected):
    assert wording.headlines(of_table1(*verdicts)) == [f"HR@10 among all tracks: {expected}."]
    assert wording.headlines({"arms": [{"key": "a", "group": "baseline"}]}) == []


def test_encoders_have_s_minus_first_then_hidden_then_track():
    arms = [
        {"key": "b_track", "label": "bi S+ track", "group": "table1", "against": "b"},
        {"key": "a", "label": "causal S-", "group": "table1", "against": None},
        {"key": "b_hidden", "label": "bi S+ hidden", "group": "table1", "against": "b"},
        {"key": "b", "label": "bi S-", "group": "table1", "against": None},
        {"key": "x", "label": "bi S+ x", "group": "ablation", "against": "b"},
        {"key": "a_track", "label": "otherwise named", "group": "table1", "against": "a"},
    ]
    first, second = wording.encoders({"arms": arms})
    assert (first.title, first.names) == ("causal", ("S-", "otherwise named"))
    assert (second.title, second.names) == ("bi", ("S-", "S+ hidden", "S+ track"))
    assert [arm["key"] for arm in second.arms] == ["b", "b_hidden", "b_track"]


def test_the_base_may_be_nothing_and_then_there_is_no_increase():
    study = copy.deepcopy(STUDY)
    study["arms"][0]["metrics"]["test/hr@1"]["mean"] = 0.0
    rows = wording.main_rows(study, "test")
    assert [(cell.main, cell.note, cell.best) for cell in rows[0]] == [
        ("HR@1", "", False),
        (".0000 ± .0104", "", False),
        (".2000", "", False),
        (".2500 ± .0200", "", True),
    ]


def test_a_name_cannot_break_the_table():
    study = copy.deepcopy(STUDY)
    hostile = "a|b\n\n# <b>*x*</b> `c` [l](http://e.example) \\ _y_ in_word & $z$ \u202e\x00"
    for arm in study["arms"]:
        arm["label"] += hostile
    study["command"] = "echo `date` ``"
    text = markdown.table1(study)
    expected = r"a\|b # \<b\>\*x\*\</b\> \`c\` \[l\](http://e.example) \\ \_y\_ in_word \& \$z\$ "
    assert f"| most popular{expected.rstrip()} | 1 |" in text
    assert "command ``` echo `date` `` ```" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert columns == {5, 11, 8}  # of the three tables
    assert "\u202e" not in text
    assert "\x00" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# not a heading", r"\# not a heading"),
        ("- no item", r"\- no item"),
        ("S- and S+", "S- and S+"),
        ("12. no item", r"12\. no item"),
        ("12.5 is a number", "12.5 is a number"),
        ("two\nlines", "two lines"),
    ],
)
def test_escape(text, expected):
    assert markdown.escape(text) == expected


@given(st.text())
def test_an_escaped_text_says_the_same(text):
    escaped = markdown.escape(text)
    assert re.sub(r"\\([^\w\s]|_)", r"\1", escaped) == wording.plain(text)
    assert escaped.isprintable() or not escaped
    assert not re.search(r"(?<!\\)(\\\\)*[|<`*]", escaped)


def places(value, path=()):
    """The paths of everything inside nested dicts and lists."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(one, dict | list):
            yield from places(one, (*path, key))


REQUIRED = {"arms", "key"}
PLACES = [path for path in places(STUDY) if len(path) > 1 and path[-1] not in REQUIRED]
PLACES += [("name",), ("digest",), ("command",), ("environment",), ("family",), ("sessions",)]


@settings(deadline=None)
@given(gone=st.lists(st.sampled_from(PLACES), min_size=1, max_size=20), null=st.booleans())
def test_whatever_is_missing_the_rest_is_told(gone, null):
    study = copy.deepcopy(STUDY)
    for *path, last in gone:
        inside = study
        for key in path:
            inside = inside.get(key) if isinstance(inside, dict) else inside[key]
            if inside is None:
                break
        else:
            if isinstance(inside, list):
                inside[last] = {"key": f"gone {last}"} if isinstance(inside[last], dict) else 0
            elif null and last != "label":
                inside[last] = None
            else:
                inside.pop(last, None)
    text = markdown.table1(study)
    assert "None" not in text
    assert "nan" not in text
