"""The report stands alone, fits a phone, and says what the study says."""

import base64
import collections
import contextlib
import functools
import html.parser
import http.server
import importlib
import json
import re
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipjax.errors import ConfigError, DataError, OutputError

mpl = pytest.importorskip("matplotlib")

from skipjax.study.report import drawing, plots, write  # noqa: E402 (after the check for matplotlib)
from skipjax.study.report.theme import DARK, LIGHT  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ENCODERS = {"causal": 0.30, "bidirectional": 0.22}
BREAKDOWNS = {
    "target": ("played", "skipped"),
    "position": ("10 to 14", "15 to 19"),
    "skips_before": ("0", "1 to 2", "3 to 5", "6 to 9", "10 and more"),
    "popularity_decile": tuple(map(str, range(1, 11))),
    "context_type": (
        "catalog", "charts", "editorial_playlist", "personalized_playlist", "radio",
        "user_collection",
    ),
    "premium": ("false", "true"),
    "hour_of_day": tuple(map(str, range(24))),
}  # fmt: skip


def fake_study(seed: int = 0) -> dict:
    """A study as the runner writes it, with invented numbers that are like real ones."""
    rng = np.random.default_rng(seed)
    arms = []
    for encoder, level in ENCODERS.items():
        base = fake_arm(rng, f"{encoder}_none", f"{encoder} S-", "table1", level, 5)
        arms.append(base)
        for context, change in (("hidden", -0.06), ("track", 0.045 if level > 0.25 else 0.004)):
            key, label = f"{encoder}_{context}", f"{encoder} S+ {context}"
            arms.append(fake_arm(rng, key, label, "table1", level * (1 + change), 5, base))
    for label, level in (
        ("most popular", 0.05),
        ("item-kNN", 0.19),
        ("session-kNN", 0.21),
        ("last-track Markov", 0.16),
    ):
        arms.append(fake_arm(rng, label.replace(" ", "_"), label, "baseline", level, 1))
    others = {
        "ablation": {
            "labels inverted": 0.01,
            "negatives of another session": 0.06,
            "random tracks as negatives": 0.055,
            "no negatives but the batch's": 0.03,
            "τ = 0.05": -0.10,
            "τ = 0.2": 0.03,
            "τ = 0.5": 0.012,
            "τ = 1": 0.001,
        },
        "other": {
            "played, skipped or unknown embedded": 0.09,
            "embedded, with InfoNCE and random negatives": 0.12,
            "skipped targets dropped": -0.31,
            "skipped targets at half weight": -0.08,
            "next played track as target": -0.22,
        },
    }
    for group, found in others.items():
        for i, (label, change) in enumerate(found.items()):
            key, label = f"{group}_{i}", f"causal S+ track, {label}"
            arms.append(fake_arm(rng, key, label, group, 0.3 * (1 + change), 3, arms[0]))
    return {
        "name": "demo",
        "source": "skipjax demo logs",
        "synthetic": True,
        "sessions": 4000,
        "tracks": 4956,
        "skipped_targets": 0.496,
        "digest": "0f3e5c1a9b7d",
        "command": "python -m skipjax study --config=configs/table1.py --seeds=5 --workdir=demo",
        "environment": {
            "date": "2026-11-21",
            "python": "3.11.7",
            "jax": "0.10.2",
            "machine": "2 cores of an AMD EPYC",
        },
        "family": (
            "Holm's correction runs over the comparisons of all arms with their S- in HR@10, MRR "
            "and gap, 68 in all."
        ),
        "tuning": [
            {
                "arm": f"{encoder}_{context}",
                "learning_rate": rate,
                "alpha": alpha,
                "beta": 1 - alpha,
                "valid/hr@10": 0.5 + float(rng.normal(0, 0.03)) - abs(np.log10(rate) + 3) * 0.1,
                "chosen": rate == 1e-3,
            }
            for encoder in ENCODERS
            for context, alpha in (("none", 0.0), ("track", 0.5))
            for rate in (1e-4, 5e-4, 1e-3, 5e-3)
        ],
        "arms": arms,
    }


def fake_arm(rng, key, label, group, level, seeds, base=None) -> dict:
    """An arm of about `level` in HR@10 among all tracks, 1.7 times as much sampled."""
    metrics = {}
    for ranking, scale in (("test", 1.7), ("test_full", 1.0)):
        for name, share in (
            ("hr@1", 0.22), ("hr@5", 0.72), ("hr@10", 1.0), ("hr@20", 1.3), ("ndcg@10", 0.57),
            ("mrr", 0.47),
        ):  # fmt: skip
            for kind, factor in (("", 1.0), ("played/", 1.15), ("skipped/", 0.85)):
                value = level * scale * share * factor
                metrics[f"{kind}{ranking}/{name}"] = spread(rng, value, 0.012 * value, seeds)
        gap = metrics[f"played/{ranking}/mrr"]["mean"] - metrics[f"skipped/{ranking}/mrr"]["mean"]
        metrics[f"{ranking}/gap_mrr"] = spread(rng, gap, 0.002, seeds)
        metrics[f"{ranking}/auc"] = spread(rng, 0.5 + 0.3 * level, 0.004, seeds)
        metrics[f"{ranking}/skip@10"] = metrics[f"skipped/{ranking}/hr@10"]
    metrics["coverage@10"] = spread(rng, 0.9 - level, 0.01, seeds)
    metrics["popularity@10"] = spread(rng, 12 / level, 0.5, seeds)
    cutoffs = [1, 2, 3, 5, 10, 20, 50, 100]
    return {
        "key": key,
        "label": label,
        "group": group,
        "against": base["key"] if base else None,
        "seeds": list(range(seeds)),
        "settings": {"loss.alpha": 0.5, "loss.temperature": 0.1} if base else {},
        "metrics": metrics,
        "hr_at_k": {
            "k": cutoffs,
            "test": [min(1.0, level * 1.7 * (k / 10) ** 0.35) for k in cutoffs],
            "test_full": [min(1.0, level * (k / 10) ** 0.4) for k in cutoffs],
        },
        "comparisons": {
            name: fake_comparison(rng, label, base, metrics[name]["mean"], name)
            for name in ("test/hr@10", "test_full/hr@10", "test_full/mrr", "test_full/gap_mrr")
            if base
        },
        "breakdown": [
            fake_part(rng, by, value, level, base)
            for by, values in BREAKDOWNS.items()
            for value in values
        ],
        "curves": [] if group == "baseline" else [fake_curve(rng, s, level) for s in range(seeds)],
    }


def spread(rng, value, std, seeds) -> dict:
    values = (value + rng.normal(0, std, seeds) if seeds > 1 else np.array([value])).tolist()
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if seeds > 1 else None,
        "values": values,
    }


def fake_comparison(rng, label, base, mean, name) -> dict:
    of_base = base["metrics"][name]["mean"]
    difference, error = mean - of_base, 0.012 * abs(of_base) + 0.001
    p = float(2 * np.exp(-((difference / error) ** 2) / 2) / 2)
    contrast = "gap" in name
    return {
        "difference": difference,
        "relative": None if contrast else difference / of_base,
        "low": difference - 1.96 * error,
        "high": difference + 1.96 * error,
        "relative_low": None if contrast else (difference - 1.96 * error) / of_base,
        "relative_high": None if contrast else (difference + 1.96 * error) / of_base,
        "p": p,
        "p_holm": min(1.0, 6 * p),
        "sentence": fake_sentence(label, base["label"], name, difference / of_base, 6 * p),
    }


def fake_sentence(label, base, name, relative, p) -> str:
    metric = name.replace("test_full/", "").replace("test/", "")
    metric = f"{metric.upper()} ({'all tracks' if 'full' in name else 'sampled candidates'})"
    low, high = 100 * relative - 2.2, 100 * relative + 2.2
    numbers = f"95 % CI {low:.1f} to {high:.1f}, Holm-corrected p {min(p, 1):.3f}."
    if p >= 0.05:
        claim = (
            f"No difference found between {label} and {base} in {metric}: {100 * relative:+.1f} %"
        )
    elif relative > 0:
        claim = f"{label} beats {base} by {100 * relative:.1f} % {metric}"
    else:
        claim = f"{label} is worse than {base} by {-100 * relative:.1f} % in {metric}"
    return f"{claim}, {numbers}"


def fake_part(rng, by, value, level, base) -> dict:
    sessions = int(rng.integers(40, 900))
    part = {
        "by": by,
        "value": value,
        "sessions": sessions,
        "test/hr@10": level * 1.7 + float(rng.normal(0, 0.03)),
        "test_full/hr@10": level + float(rng.normal(0, 0.03)),
        "comparison": {},
    }
    if base:
        difference = level - base["metrics"]["test_full/hr@10"]["mean"] + rng.normal(0, 0.01)
        width = 0.8 / np.sqrt(sessions)
        part["comparison"]["test_full/hr@10"] = {
            "difference": float(difference),
            "low": float(difference - width),
            "high": float(difference + width),
        }
    return part


def fake_curve(rng, seed, level) -> dict:
    epochs = np.arange(1, int(rng.integers(8, 13)))
    return {
        "seed": seed,
        "epoch": epochs.tolist(),
        "valid/hr@10": (
            1.7 * level * (1 - np.exp(-epochs / 3)) + rng.normal(0, 0.006, epochs.size)
        ).tolist(),
        "train/loss": (3 + 4 * np.exp(-epochs / 4) - level).tolist(),
    }


def small_study() -> dict:
    """Few arms and breakdowns, so that it is soon drawn."""
    study = fake_study()
    study["arms"] = [arm for arm in study["arms"] if arm["key"] in SMALL]
    for arm in study["arms"]:
        arm["breakdown"] = [part for part in arm["breakdown"] if part["by"] == "premium"]
    return study


SMALL = ("causal_none", "causal_hidden", "causal_track", "most_popular", "ablation_0")


@pytest.fixture(scope="module")
def page() -> str:
    return write.report(fake_study())


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced, and keeps links, ids, attributes and the text."""

    VOID = frozenset(["meta", "link", "img", "br", "hr"])

    def __init__(self, text: str):
        super().__init__()
        self.open, self.text, self.tags = [], [], collections.Counter()
        self.links, self.ids, self.images = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        found = dict(attributes)
        assert len(found) == len(attributes), f"an attribute twice in {tag}"
        assert not any(name.startswith("on") for name in found)
        self.links += [found[name] for name in ("src", "srcset", "href") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        self.images += [found] if tag == "img" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def svgs(page: str) -> list[str]:
    found = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    return [base64.b64decode(text).decode() for text in found]


def test_tags_are_balanced_and_links_stay_within_the_page(page):
    parsed = Page(page)
    assert parsed.tags["script"] == parsed.tags["style"] - 1 == 0
    assert parsed.tags["h1"] == 1
    assert len(set(parsed.ids)) == len(parsed.ids)
    for link in parsed.links:
        assert link.startswith("data:") or link.removeprefix("#") in parsed.ids
    assert "://" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_every_picture_has_words_and_keeps_to_itself(page):
    parsed = Page(page)
    assert len(parsed.images) == 2 * parsed.tags["figure"] > 40
    assert collections.Counter(image["class"] for image in parsed.images).keys() == {
        "light",
        "dark",
    }
    for image in parsed.images:
        assert len(image["alt"]) > 20
        assert int(image["width"]) == 384
        assert int(image["height"]) > 100
    for svg in svgs(page):
        root = xml.etree.ElementTree.fromstring(svg)
        for element in root.iter():
            assert element.tag.rpartition("}")[2] not in ("script", "image", "foreignObject", "a")
            for name, value in element.attrib.items():
                assert not name.endswith("href") or value.startswith("#")
                assert "url(" not in value or value.startswith("url(#")
        assert any(element.tag.endswith("}text") for element in root.iter()), "text is not text"


def test_the_answer_comes_first_and_synthetic_is_said_above_it(page):
    text = " ".join(Page(page).text)
    study = fake_study()
    first = study["arms"][1]["comparisons"]["test/hr@10"]["sentence"]
    order = ("Synthetic data.", "of 4 S+ arms", first, "Mean ± sample standard deviation")
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    for words in (study["command"], study["family"], study["digest"], "2 cores of an AMD EPYC"):
        assert words in text


def test_real_data_are_called_real():
    text = write.report(small_study() | {"synthetic": False})
    assert "Synthetic" not in text
    assert "(real sessions, not synthetic)" in text


def test_the_same_study_gives_the_same_bytes_whatever_the_style():
    study = small_study()
    first = write.report(study)
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "lines.linewidth": 9}):
        assert write.report(json.loads(json.dumps(study))) == first
    assert study == small_study()


def test_charts_and_tables_show_the_numbers(page):
    arm = fake_study()["arms"][2]
    assert arm["label"] == "causal S+ track"
    found = arm["comparisons"]["test_full/hr@10"]
    drawn = [svg for svg in svgs(page) if "difference in HR@10 among all tracks" in svg]
    number = f"+{found['difference']:.4f}".replace("+0.", "+.")
    assert any("causal S+ track" in svg and number in svg for svg in drawn)
    mean = arm["metrics"]["test_full/hr@10"]["mean"]
    assert f"{mean:.4f}".removeprefix("0") in page
    assert f"+{100 * found['relative']:.1f} %" in page


def test_the_matrix_says_by_text_what_it_says_by_colour():
    study = small_study()
    for key, difference, p in (("causal_track", 0.03, 0.01), ("causal_hidden", -0.03, 0.2)):
        arm = next(arm for arm in study["arms"] if arm["key"] == key)
        arm["comparisons"] = {
            "test/hr@10": {
                "difference": difference,
                "relative": difference / 0.3,
                "low": difference - 0.01,
                "high": difference + 0.01,
                "relative_low": (difference - 0.01) / 0.3,
                "relative_high": (difference + 0.01) / 0.3,
                "p": p,
                "p_holm": p,
                "sentence": "A sentence.",
            }
        }
    study["arms"] = study["arms"][:3]
    text = write.report(study)
    better = (
        '<td style="background:rgb(var(--up) / 0.55)"><span class="mark better" role="img" '
        'aria-label="better">▲</span> <strong>+10.0 %</strong><small>+6.7 to +13.3 %</small>'
        "<small>p = .010</small></td>"
    )
    none = (  # 0.35 of 0.55: it may be chance
        '<td style="background:rgb(var(--down) / 0.19)"><strong>−10.0 %</strong>'
        "<small>−13.3 to −6.7 %</small><small>p = .200</small></td>"
    )
    assert better in text
    assert none in text


HOSTILE = """<script>alert(1)</script>"'><img src=http://evil.example/x onerror=y> & $\\frac{ $x$
|`*_\x00\u202e\ud800 --> ]]> {0} %s 音楽 🎵"""


def test_hostile_texts_are_only_texts():
    study = small_study()
    for name in ("name", "source", "digest", "command", "family"):
        study[name] = HOSTILE
    study["environment"] = {HOSTILE: HOSTILE}
    study["tuning"][0]["arm"] = HOSTILE
    for arm in study["arms"]:
        arm["label"] += HOSTILE
        arm["settings"] = {HOSTILE: HOSTILE}
        for found in arm["comparisons"].values():
            found["sentence"] = HOSTILE
        for part in arm["breakdown"]:
            part["by"] = HOSTILE
            part["value"] = HOSTILE + str(part["value"])
    text = write.report(study)
    text.encode()
    parsed = Page(text)
    assert parsed.tags["script"] == 0
    assert parsed.tags["img"] == 2 * parsed.tags["figure"]
    assert all(link.startswith(("data:", "#")) for link in parsed.links)
    assert "<script>alert(1)</script>" in " ".join(parsed.text)
    assert not re.search("[\x00\u202e\ud800]", text)
    for svg in svgs(text):
        xml.etree.ElementTree.fromstring(svg)


def test_a_study_needs_arms_and_nothing_else(tmp_path):
    with pytest.raises(DataError, match="no arms"):
        write.report({"name": "empty"})
    parsed = Page(write.report({"arms": [{"key": "only", "group": "table1"}]}))
    assert "only" in " ".join(parsed.text)
    with pytest.raises(OutputError, match="cannot be written"):
        write.write_report({"arms": [{"key": "only"}]}, tmp_path / "no" / "report.html")


def places(value, path=()):
    """The paths of everything inside nested dicts and lists."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inside:
        yield (*path, key)
        if isinstance(one, dict | list):
            yield from places(one, (*path, key))


def tiny_study() -> dict:
    study = small_study()
    study["arms"] = [study["arms"][0], study["arms"][2]]
    study["tuning"] = study["tuning"][:2]
    for arm in study["arms"]:
        arm["curves"] = arm["curves"][:1]
    return study


REQUIRED = {"arms", "key", "by", "value", "against", "label", "group"}
PLACES = [path for path in places(tiny_study()) if len(path) > 1 and path[-1] not in REQUIRED]


@settings(max_examples=6, deadline=None)
@given(gone=st.lists(st.sampled_from(PLACES), min_size=1, max_size=60), null=st.booleans())
def test_whatever_is_missing_the_rest_is_told(gone, null):
    study = tiny_study()
    for *path, last in gone:
        with contextlib.suppress(KeyError, IndexError, TypeError):
            inside = functools.reduce(lambda value, key: value[key], path, study)
            if isinstance(inside, list) or not null:
                del inside[last]
            else:
                inside[last] = None
    Page(write.report(study))


def test_the_dark_picture_is_the_light_one_in_other_colours(page):
    themes = [dict.fromkeys(theme.colours()) for theme in (LIGHT, DARK)]
    assert len(themes[0]) == len(themes[1]), "two colours become one, or one two"
    inside = re.compile('(?<=[ :])#[0-9a-f]{6}(?=[;"])')
    for i, svg in enumerate(svgs(page)):
        assert set(inside.findall(svg)) <= {*themes[i % 2]}
    pairs = zip(svgs(page)[::2], svgs(page)[1::2], strict=True)
    assert all(inside.sub("", light) == inside.sub("", dark) for light, dark in pairs)
    picture = plots.bars([plots.Bar(f"a: {LIGHT.ink};", 1.0, "b")], "x")
    assert LIGHT.ink in picture.dark, "what is said stays as it is"


def test_matplotlib_is_asked_for_by_name(monkeypatch):
    monkeypatch.delitem(sys.modules, "skipjax.study.report.drawing")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'skipjax\[study\]'"):
        importlib.import_module("skipjax.study.report.drawing")


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.floats(0.01, 2))
def test_labels_are_moved_apart_as_little_as_possible(wanted, gap):
    wanted = sorted(wanted)
    moved = [place - i * gap for i, place in enumerate(wanted)]
    size = range(len(wanted))
    # The least-squares fit that does not fall, by its min-max formula.
    expected = [
        max(min(np.mean(moved[a : b + 1]) for b in size if b >= i) for a in size if a <= i)
        + i * gap
        for i in size
    ]
    np.testing.assert_allclose(drawing.spread(wanted, gap), expected, atol=1e-9)


def test_the_axis_of_effects_leaves_out_the_widest_intervals():
    narrow = [plots.Effects(str(i), 9, ((0.0, -1.0, 0.5),)) for i in range(9)]
    wide = plots.Effects("wide", 1, ((0.1, -50.0, 50.0),))
    assert plots.effects_limit([*narrow, wide]) == pytest.approx(1.08)
    far = plots.Effects("far", 1, ((3.0, 2.0, 4.0), None))
    assert plots.effects_limit([*narrow, far]) == pytest.approx(1.08 * 3)
    assert plots.effects_limit([plots.Effects("none", 1, (None,))]) == 1.0


# What follows opens the page in a browser.


@pytest.fixture
def browser(tmp_path):
    """Serves texts on localhost and opens one: (DOM of it, paths asked for, URLs it asked for)."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    origin = f"http://127.0.0.1:{server.server_port}"

    def open_page(name, dark=False, **pages):
        asked.clear()
        for key, text in pages.items():
            (folder / f"{key}.html").write_text(text, encoding="utf-8")
        log = tmp_path / "net.json"
        command = [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            "--hide-scrollbars",
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--log-net-log={log}",
            "--dump-dom",
            f"{origin}/{name}.html",
        ]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        shutil.rmtree(tmp_path / "profile")
        urls = set()
        for event in json.loads(log.read_text())["events"]:
            found = event.get("params", {})
            # Others are the browser's own business, or the page's address typed by the user.
            if found.get("initiator") == origin and "url" in found:
                urls.add(found["url"].removeprefix(origin))
        return run.stdout, list(asked), urls

    yield open_page
    server.shutdown()
    thread.join()
    server.server_close()


def test_no_request_leaves_the_page(browser, page):
    policy = re.search("<meta http-equiv=[^>]*>", page)[0]
    dom, asked, urls = browser("page", page=page.replace(policy, ""))
    assert "<h1>Do skips help?</h1>" in dom
    assert asked == ["/page.html"]
    assert {url for url in urls if not url.startswith("data:")} == set()


def test_a_request_would_be_noticed_and_is_refused(browser, page):
    extra = '<!DOCTYPE html><link rel="icon" href="data:,"><title>bare</title>'
    extra += '<img src="/extra.png"><img src="http://127.0.0.1:9/far.png">'
    _, asked, urls = browser("bare", bare=extra)
    assert asked == ["/bare.html", "/extra.png"]
    assert {"/extra.png", "http://127.0.0.1:9/far.png"} <= urls
    policy = re.search("<meta http-equiv=[^>]*>", page)[0]
    _, asked, urls = browser("bare", bare=policy + extra)
    assert asked == ["/bare.html"]
    assert {url for url in urls if not url.startswith("data:")} == set()


FRAMES = """<!DOCTYPE html><meta name="color-scheme" content="light dark">
<style>:root, iframe { color-scheme: light dark; border: 0; height: 700px }</style>
<iframe src="page.html" style="width: 360px"></iframe>
<iframe src="page.html" style="width: 1200px"></iframe>
<iframe src="long.html" style="width: 360px"></iframe>
<script>
const look = inside => {
  const page = inside.document, width = () => page.documentElement.scrollWidth;
  const seen = kind => [...page.images].filter(
      image => image.className == kind && image.getClientRects().length).length;
  const closed = width();
  page.querySelectorAll("details").forEach(details => details.open = true);
  return {
    window: inside.innerWidth, closed, opened: width(), light: seen("light"), dark: seen("dark"),
    broken: [...page.images].filter(image => !image.naturalWidth).length,
    paper: inside.getComputedStyle(page.body).backgroundColor,
    boxes: [...page.querySelectorAll(".scroll")].filter(
        box => box.scrollWidth > box.clientWidth).length,
  };
};
onload = () => {
  document.title = JSON.stringify(Array.from(frames, look));
};
</script>"""


@pytest.fixture(scope="module")
def long_page() -> str:
    study, long = small_study(), "x" * 300
    for name in ("name", "source", "command", "family", "digest"):
        study[name] = long
    study["environment"] = {long: long}
    for arm in study["arms"]:
        arm["label"] += long
        arm["settings"] = {long: long}
    return write.report(study)


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_phone_and_desktop_by_day_and_by_night(browser, page, long_page, dark):
    dom, _, _ = browser("frames", dark, page=page, long=long_page, frames=FRAMES)
    seen = json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1]))
    for one, width, text in zip(seen, (360, 1200, 360), (page, page, long_page), strict=True):
        figures = Page(text).tags["figure"]
        assert one["window"] == width
        assert (one["closed"], one["opened"]) == (width, width), "the page scrolls sideways"
        assert (one["light"], one["dark"]) == ((0, figures) if dark else (figures, 0))
        assert one["broken"] == 0
        assert one["paper"] == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
        assert (one["boxes"] > 0) == (width == 360), "tables scroll in boxes of their own"
