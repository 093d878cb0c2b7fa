"""The session explorer, used in a real browser by mouse and by keyboard.

    SKIPJAX_SCREENSHOT=benchmarks/explorer.png \\
        python -m pytest -m slow tests/serving_explorer_test.py -k screenshot

trains the README's model on the demo sessions, with model.skip_embedding and without, and takes the
picture that README shows.
"""

import io
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import uvicorn
from playwright import sync_api
from services import NAMES, recommender

from skipjax.recommend import Recommender
from skipjax.serving import server
from skipjax.serving.answering import Answerer
from skipjax.serving.app import create_app

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-extensions")
DESKTOP, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
SCREENSHOT = os.environ.get("SKIPJAX_SCREENSHOT")


@contextmanager
def serving(recommenders):
    """The address of a service, in threads of this process."""
    listening = server.listen("127.0.0.1", 0)
    ready = threading.Event()
    app = create_app(recommenders, on_ready=lambda seconds: ready.set())
    running = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert ready.wait(300)
        yield server.url(listening)
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answerer, "warm_up", lambda *_: 0.0)
        models = {"plain": recommender(False, "plain"), "reads": recommender(True, "reads")}
        with serving(models) as address:
            yield address


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page; at the end, nothing may have left its origin, nor any error have come up."""
    requested, faults, contexts = [], [], []

    def visit(fragment="", viewport=DESKTOP, prepare=lambda page: None, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        prepare(page)
        page.goto(f"{address}/{fragment}")
        return page

    visit.faults = faults
    yield visit
    for context in contexts:
        context.close()
    assert all(url.startswith((address, "data:")) for url in requested), requested
    assert faults == []


def session(page):
    """[(id, whether it was skipped)]."""
    return page.evaluate(
        "[...document.querySelectorAll('#session li')].map("
        "row => [row.querySelector('.id').textContent, row.querySelector('input').checked])"
    )


def best(page, name):
    """The ids that a model recommends."""
    return card(page, name).locator(".best .id").all_inner_texts()


def card(page, name):
    return page.get_by_role("region", name=name)


def settle(page):
    """Waits for the answers to the last change."""
    page.wait_for_timeout(200)  # more than the page waits before it asks
    sync_api.expect(page.locator("[aria-busy]")).to_have_count(0, timeout=20_000)


def wanted(name, listened, k=10):
    """What Recommender gives for [(id, skipped)]."""
    model = recommender(name == "reads", name)
    tracks, skipped = zip(*listened, strict=True)
    return model.recommend([tracks], k, skipped=[skipped])["track_id"].to_pylist()


def test_a_session_is_built_by_mouse(visit):
    page = visit()
    page.locator(".best .row").first.wait_for()
    assert best(page, "plain") == best(page, "reads") == NAMES[:10]  # the most played
    assert "Does not read skips. Marking a track as skipped has no effect" in " ".join(
        card(page, "plain").locator(".reads").inner_text().split()
    )
    assert "Reads skips." in card(page, "reads").locator(".reads").inner_text()

    page.get_by_label("Add a track").fill("02")
    page.get_by_role("option").nth(1).click()
    assert session(page) == [["t020", False]]
    settle(page)
    assert best(page, "plain") == wanted("plain", [("t020", False)])
    first, second = best(page, "plain")[0], best(page, "reads")[3]
    card(page, "plain").get_by_role("button", name=f"Add {first} as played").click()
    settle(page)
    second = best(page, "reads")[3]
    card(page, "reads").get_by_role("button", name=f"Add {second} as skipped").click()
    settle(page)
    listened = [("t020", False), (first, False), (second, True)]
    assert session(page) == [list(track) for track in listened]
    assert page.locator("#count").inner_text() == "3 tracks, 1 skipped"

    before = {name: best(page, name) for name in ("plain", "reads")}
    page.get_by_label("t020 was skipped").check()
    settle(page)
    listened[0] = ("t020", True)
    assert best(page, "plain") == before["plain"] == wanted("plain", listened)
    assert best(page, "reads") == wanted("reads", listened) != before["reads"]
    assert set(card(page, "plain").locator(".best .moved").all_inner_texts()) == {"–"}
    moved = card(page, "reads").locator(".best .moved").all_inner_texts()
    for rank, (track, text) in enumerate(zip(best(page, "reads"), moved, strict=True), start=1):
        if track in before["reads"]:
            was = before["reads"].index(track) + 1
            assert text == ("–" if was == rank else f"{was} → {rank}")
        else:
            assert int(text.split(" → ")[0]) > 10
    out = card(page, "reads").locator(".out .id").all_inner_texts()
    assert set(out) == set(before["reads"]) - set(best(page, "reads"))
    assert "reads: " in page.locator("#said").inner_text()  # for those who hear the page

    page.get_by_role("button", name=f"Move up {second}").click()
    page.get_by_role("button", name=f"Remove {first}").click()
    settle(page)
    listened = [("t020", True), (second, True)]
    assert session(page) == [list(track) for track in listened]
    assert best(page, "reads") == wanted("reads", listened)
    again = visit(page.url.rpartition("/")[2])  # as somebody would who got the link
    settle(again)
    assert session(again) == session(page)
    assert best(again, "reads") == best(page, "reads")
    page.get_by_role("button", name="Start again").click()
    settle(page)
    assert session(page) == []
    assert "#" not in page.url
    assert best(page, "plain") == NAMES[:10]


def test_ids_of_any_kind_and_unknown_ones(visit):
    page = visit("#p=" + "&s=".join(["a%2Fb", "%3Fq%3D1%23", "never+heard"]))
    settle(page)
    assert session(page) == [["a/b", False], ["?q=1#", True], ["never heard", True]]
    assert page.locator(".strange:visible").all_inner_texts() == ["not known, so passed over"]
    assert best(page, "reads") == wanted("reads", [("a/b", False), ("?q=1#", True)])
    page.get_by_label("Add a track").fill("ü😀")
    page.get_by_role("option").click()
    settle(page)
    assert session(page)[-1] == ["ü😀\u202e", False]
    page.get_by_label("Add a track").fill("<b>")
    page.get_by_text("No track has “<b>” in its id.").wait_for()
    page.evaluate("location.hash = '#s=t001'")
    settle(page)
    assert session(page) == [["t001", True]]


def test_by_keyboard_alone(visit):
    page = visit()
    settle(page)
    press = page.keyboard.press

    def focused():
        return page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.id")

    press("Tab")
    assert focused() == "search"
    press("ArrowDown")  # lists the most played
    page.get_by_role("option").first.wait_for()
    press("ArrowDown")
    press("ArrowDown")
    assert page.locator("#search").get_attribute("aria-activedescendant") == "found-1"
    press("Enter")
    assert session(page) == [["t001", False]]
    page.keyboard.type("01")
    page.get_by_role("option").first.wait_for()
    press("Escape")
    assert page.get_by_role("option").count() == 0
    press("ArrowDown")
    page.get_by_role("option").first.wait_for()
    press("ArrowDown")
    press("Enter")
    settle(page)
    tracks = [track for track, _ in session(page)]
    assert len(tracks) == 2
    seen = []
    for _ in range(30):
        press("Tab")
        seen.append(focused())
        # Whatever has the focus shows it.
        assert page.evaluate(
            "[document.activeElement, document.activeElement.closest('label')].some("
            "e => e && getComputedStyle(e).outlineStyle != 'none')"
        ), seen
        if seen[-1] == f"{tracks[1]} was skipped":
            break
    press("Space")
    settle(page)
    assert session(page)[1] == [tracks[1], True]
    assert focused() == f"{tracks[1]} was skipped"
    press("Tab")
    assert focused() == f"Move up {tracks[1]}"
    press("Enter")
    assert session(page)[0] == [tracks[1], True]
    assert focused() == f"Move down {tracks[1]}"  # it cannot move up any more
    press("Tab")
    press("Enter")
    assert session(page) == [[tracks[0], False]]
    assert focused() == f"Remove {tracks[0]}"
    settle(page)
    for _ in range(20):
        press("Tab")
        if focused().startswith("Add ") and focused().endswith("as skipped"):
            break
    added = focused().split()[1]
    press("Enter")
    settle(page)
    assert session(page)[-1] == [added, True]
    assert focused().endswith("as skipped")  # of what now stands there


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_any_screen(visit, scheme):
    """Nothing sticks out, text stands out from what is behind it, and all has a name."""
    tracks = [*NAMES[:3], "never-heard-of-" * 30, *NAMES[-4:]]
    fragment = "#" + "&".join(f"{'sp'[i % 2]}={quote(track)}" for i, track in enumerate(tracks))
    for viewport in (NARROW, {"width": 800, "height": 700}, DESKTOP):
        page = visit(fragment, viewport, color_scheme=scheme)
        settle(page)
        page.get_by_label(f"{tracks[0]} was skipped").uncheck()
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        page.get_by_label("Add a track").fill("t0")
        page.get_by_role("option").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert page.evaluate(LOW_CONTRAST) == []
        assert page.evaluate(NAMELESS) == []
        one, two = (card(page, name).bounding_box() for name in ("plain", "reads"))
        if viewport == DESKTOP:
            assert one["y"] == two["y"]
            assert two["x"] >= one["x"] + one["width"]
            rows = [card(page, name).locator(".best .row").first for name in ("plain", "reads")]
            assert rows[0].bounding_box()["y"] == rows[1].bounding_box()["y"]
        else:
            assert two["y"] >= one["y"] + one["height"]


LOW_CONTRAST = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (x) => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
    const [r, g, b] = parts(color).map((x) => linear(x / 255));
    return .2126 * r + .7152 * g + .0722 * b + .05;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if ((parts(color)[3] ?? 1) === 1) return color;
    }
  };
  return [...document.querySelectorAll("body *")].filter((element) =>
    element.checkVisibility() && !element.disabled
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
  ).map((element) => {
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    return [element.textContent, Math.max(a, b) / Math.min(a, b)];
  }).filter(([, contrast]) => contrast < 4.5);
}"""
NAMELESS = """() => [...document.querySelectorAll("button, input")].filter((element) =>
  !(element.ariaLabel || element.textContent.trim() || element.labels?.length)
).map((element) => element.outerHTML)"""


def test_an_answer_that_comes_too_late_is_dropped(visit):
    held = []

    def hold(route):
        """The first answers to one track; later ones pass."""
        if route.request.post_data_json["sessions"][0]["tracks"] == ["t005"]:
            held.append(route)
        else:
            route.continue_()

    page = visit(prepare=lambda page: page.route("**/recommend", hold))
    settle(page)
    page.evaluate("location.hash = '#p=t005'")
    page.wait_for_timeout(400)
    assert len(held) == 2
    page.evaluate("location.hash = '#p=t005&p=t006'")
    settle(page)
    for route in held:
        route.continue_()
    page.wait_for_timeout(300)
    assert best(page, "plain") == wanted("plain", [("t005", False), ("t006", False)])


def test_what_goes_wrong_is_said_in_words(visit):
    answers = []

    def answer(route):
        what = answers.pop(0) if answers else None
        if what == "gone":
            route.abort()
        elif what:
            body = '{"detail": "4,096 sessions wait already; try again in 9 s."}'
            route.fulfill(status=503, body=body, headers={"Retry-After": "9"})
        else:
            route.continue_()

    page = visit("#p=t001", prepare=lambda page: page.route("**/recommend", answer))
    settle(page)
    shown = page.get_by_role("alert")
    assert shown.count() == 0
    for what, text in (("gone", "The service does not answer."), ("full", "The service is busy: ")):
        answers += [what] * 2
        page.get_by_label("Add a track").fill("t00")
        page.get_by_role("option").first.click()
        settle(page)
        assert shown.count() == 2
        assert text in shown.first.inner_text()
        page.get_by_role("button", name="Try again").first.click()
        settle(page)
        assert shown.count() == 1
        page.get_by_role("button", name="Try again").click()
        settle(page)
        assert shown.count() == 0
    assert best(page, "plain") == wanted("plain", session(page))
    page.evaluate("location.hash = '#' + 'p=t001&'.repeat(301)")
    settle(page)
    assert "tracks is a list of 301; give a list of at most 300 ids" in shown.first.inner_text()
    assert len(visit.faults) == 6  # the browser's own word for each of those
    visit.faults.clear()


def test_the_screenshot(visit, browser, tmp_path):
    """Of the demo if it is asked for; otherwise that there is something to see."""
    if SCREENSHOT:
        models = {
            name: trained(tmp_path / name, flags)
            for name, flags in (
                ("sasrec_skip-track", []),
                ("with skip_embedding", ["--config.model.skip_embedding=True"]),
            )
        }
        with serving(models) as address:
            page = browser.new_page(viewport=DESKTOP, device_scale_factor=1.5)
            page.goto(address)
            picture = pictured(page)
            page.close()
        Path(SCREENSHOT).write_bytes(picture)
    else:
        picture = pictured(visit())
    image = pytest.importorskip("matplotlib.image").imread(io.BytesIO(picture))
    height, width = image.shape[:2]
    assert width >= 1280
    assert height >= 900
    thirds = [
        image[height // 8 : height // 2, i * width // 3 : (i + 1) * width // 3] for i in range(3)
    ]
    for third in thirds:  # text of many shades in each of the three cards
        assert len({tuple(pixel) for row in third[::2] for pixel in row.tolist()}) > 20


def pictured(page):
    """A session of four tracks, of which the last was just marked as skipped."""
    page.get_by_label("Add a track").fill("d5" if SCREENSHOT else "t0")
    page.get_by_role("option").first.click()
    for _ in range(3):
        settle(page)
        page.locator(".best").first.locator(".play").nth(1).click()
    settle(page)
    page.locator("#session input").last.check()
    settle(page)
    page.wait_for_timeout(500)  # rows are moving
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    return page.screenshot(full_page=True)


def trained(workdir, flags):
    command = [sys.executable, "main.py", "--config=configs/sasrec_skip.py", *flags]
    subprocess.run([*command, f"--workdir={workdir}"], cwd=ROOT, check=True)
    return Recommender.load(workdir)
