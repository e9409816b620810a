"""The views of the cache on what was made already, in a real JupyterLab: a finished take, a recording, and a watch that
died."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.browser.test_cache_views import SETUP, step

FINISH = "frames = [_ for _ in session.frames()]"
NOBODY = SETUP + FINISH
MORE = "from studio.widgets import Curves, PointGaze\n"
RECORDED = (
    MORE
    + SETUP
    + """
import pathlib, tempfile
session.judge = lambda frames, texts: [0.2 + 0.5 * frames.mean() / 255 / (1 + i) for i, _ in enumerate(texts)]
with session.watch() as watching:
    watching.measure_residue()
    list(session.frames())
    path = session.record(pathlib.Path(tempfile.mkdtemp()) / 'take.studio')
session.close()
recording = studio.open_recording(path, models=models)
"""
)


# The block that the heading in sight names, once it is one near the end.
HEADED = """() => {
    const headings = [...document.querySelectorAll('.ls-heading')].filter((one) => one.checkVisibility());
    const found = headings.map((one) => /block (\\d+)/.exec(one.textContent)).find((one) => one !== null);
    return found && Number(found[1]) > 6 ? Number(found[1]) : false;
}"""


def ask(page: Any, view: str, frame: int, across: float, down: float) -> None:
    """Click a place of a frame in the view of gazes."""
    asking = page.locator(f"{view} .ls-ask").nth(frame)
    box = asking.bounding_box()
    assert box is not None
    asking.click(position={"x": box["width"] * across, "y": box["height"] * down})


def shares(page: Any, view: str) -> list[tuple[str, float]]:
    texts = page.locator(f"{view} .ls-look figcaption").all_inner_texts()
    return [(text.split(": ")[0], float(text.split(": ")[1].split(" ")[0])) for text in texts]


def read(notebook: Any, watch: str, block: int, pin: str = "") -> list[tuple[str, float]]:
    code = (
        f"import numpy as np\nreading = {watch}.at({block}) if hasattr({watch}, 'at') else {watch}.readings[{block}]\n"
        f"print([(str(slot.frame), float(100 * gaze.sum())) for slot, gaze in zip(reading.slots, reading.look({pin}))"
        " if slot.frame is not None])"
    )
    return eval(notebook.execute(code))


def near(found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> None:
    assert [frame for frame, _ in found] == [frame for frame, _ in wanted]
    for (_, mine), (_, other) in zip(found, wanted, strict=True):
        assert abs(mine - other) <= 0.5


def test_a_finished_take_that_nobody_watched(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("past.ipynb", [MORE + NOBODY, "player = Studio(session, autoplay=False)\nplayer"])
    notebook = open_notebook("past.ipynb", width=1480, height=1100)
    page = notebook.page
    notebook.run_all()
    page.locator(".ls-inspect").wait_for(timeout=60_000)
    page.get_by_text("it can be read now, by the button above").locator("visible=true").wait_for()
    page.locator(".ls-inspect").screenshot(path=screenshots / "past-unread.png")

    # A reading that fails is said, and can be tried again.
    notebook.execute(
        "keep = session._core.reread\ndef boom(*_): raise MemoryError('no room')\nsession._core.reread = boom"
    )
    again = page.get_by_role("button", name="read what was missed")
    again.click()
    page.get_by_text("It could not be read: no room").wait_for()
    notebook.execute("session._core.reread = keep")
    again.click()
    notebook.until("() => document.querySelector('.ls-health').style.visibility === 'visible'", "the readings")
    again.wait_for(state="hidden", timeout=60_000)
    assert page.locator(".ls-trouble").first.is_hidden()

    # A point of a block of the past: that block is made once more.
    page.get_by_role("tab", name="Gaze").click()
    page.locator(".ls-studio").focus()
    page.keyboard.press("End")
    at = notebook.until(HEADED, "the end of the film")
    whole = shares(page, ".ls-inspect")
    ask(page, ".ls-inspect", 1, 0.9, 0.2)
    page.locator(".ls-point[data-read='true']").wait_for(timeout=60_000)
    near(shares(page, ".ls-inspect"), read(notebook, "player._relay._watch", at))
    assert shares(page, ".ls-inspect") != whole
    # A pinned head has a gaze of its own.
    page.get_by_label("Layer", exact=True).locator("visible=true").select_option("1")
    page.get_by_label("Head", exact=True).locator("visible=true").select_option("0")
    page.get_by_text("of its attention, layer 1, head 0").wait_for()
    near(shares(page, ".ls-inspect"), read(notebook, "player._relay._watch", at, "1, 0"))
    for name in ("Dark", "Light"):
        notebook.theme(f"JupyterLab {name}")
        page.locator(".ls-studio").screenshot(path=screenshots / f"past-gaze-{name.lower()}.png")

    # Old words fade: rows at half height after the switch, as traced.
    page.get_by_role("tab", name="Words").click()
    page.get_by_label("Layer", exact=True).locator("visible=true").select_option("")
    page.get_by_label("Head", exact=True).locator("visible=true").select_option("")
    page.get_by_text("Half height: no longer asked for, found in the cache alone").wait_for()
    row = page.locator(".ls-word", has_text="runs")
    row.click()
    share = float(
        notebook.execute(
            f"print(next(100 * w.share for w in player._relay._watch.at({at}).trace.words if w.text == 'runs'))"
        )
    )
    told = page.locator(".ls-detail:visible").inner_text()
    assert "is heard through the cache alone" in told
    assert abs(float(told.split("alone: ")[1].split(" ")[0]) - share) <= 0.5
    heights = row.locator("canvas").evaluate(
        """(canvas) => {
            const at = (share) => {
                const { width, height } = canvas;
                const column = canvas.getContext('2d').getImageData(Math.round(share * width), 0, 1, height).data;
                return [...column].filter((value, i) => i % 4 === 3 && value > 0).length / height;
            };
            return [at(0.3), at(0.95)];
        }"""
    )
    assert heights[0] > 0.95
    assert 0.4 < heights[1] < 0.6
    for name in ("Dark", "Light"):
        notebook.theme(f"JupyterLab {name}")
        page.locator(".ls-inspect").screenshot(path=screenshots / f"past-words-{name.lower()}.png")

    # Heads in the order of what they do.
    page.get_by_role("tab", name="Heads").click()
    page.get_by_label("Order of the heads").select_option("kind")
    code = (
        "from studio.widgets.tables import head_kinds, parts\nkinds = head_kinds(player.readings)\n"
        f"sink = parts(player._relay._watch.at({at}))[..., 0]\norder = ['sink', 'self_block', 'dynamic']\n"
        "rows = [(order.index(kinds[i, j]), -sink[i, j], f'Layer {i}, head {j}') for i in range(2) for j in range(2)]\n"
        "print([row[2] for row in sorted(rows)])"
    )
    cells = page.locator(".ls-head-cell").evaluate_all("(all) => all.map((cell) => cell.ariaLabel.split(':')[0])")
    assert cells == eval(notebook.execute(code))
    assert notebook.execute("print(player.errors, session.error)") == "[] None"
    assert notebook.errors == []


def test_every_view_of_a_recording(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    kinds = ("CacheStrip", "WordsOverTime", "HeadGrid", "Curves", "PointGaze")
    show = "views = [kind(recording) for kind in ({})]\nfor view in views: display(view)".format(", ".join(kinds))
    lab.add("recording.ipynb", [RECORDED, show])
    notebook = open_notebook("recording.ipynb", width=1000, height=2600)
    page = notebook.page
    notebook.run_all()
    page.locator(".ls-inspect").nth(4).wait_for(timeout=90_000)
    views = [page.locator(".ls-inspect").nth(i) for i in range(5)]
    notebook.until("() => document.querySelectorAll('.ls-single .ls-heading').length >= 5", "the views")
    views[0].get_by_text("What block 8 could see").wait_for()
    # All of them go back together.
    views[0].get_by_label("Block", exact=True).fill("6")
    views[4].get_by_text("Where block 6 looks").wait_for()
    views[2].get_by_text("What the heads of block 6 look at").wait_for()
    assert views[0].get_by_text("recached here").is_visible()
    assert views[1].locator(".ls-word").count() == 8
    lines = views[3].locator(".ls-line").evaluate_all("(all) => all.map((line) => line.dataset.label)")
    assert sorted(lines) == ["alignment 0", "alignment 1", "residue 0"]
    # The mark of the curves stands where block 6 ends.
    wanted = "clock = recording.timeline.clock\nprint(clock.block_seconds(7) / clock.block_seconds(9))"
    left = views[3].locator(".ls-curvehead").evaluate("(head) => parseFloat(head.style.left)")
    assert abs(left / 100 - float(notebook.execute(wanted))) < 0.01
    # A point of it is read by making the block once more.
    views[4].locator(".ls-ask").nth(2).click()
    views[4].locator(".ls-point[data-read='true']").wait_for(timeout=60_000)
    found = views[4].locator(".ls-look figcaption").all_inner_texts()
    wanted = read(notebook, "recording", 6)
    near([(text.split(": ")[0], float(text.split(": ")[1].split(" ")[0])) for text in found], wanted)
    for name in ("Dark", "Light"):
        notebook.theme(f"JupyterLab {name}")
        for i, kind in enumerate(kinds):
            views[i].screenshot(path=screenshots / f"recording-{kind.lower()}-{name.lower()}.png")
    assert notebook.execute("print([view.errors for view in views])") == "[[], [], [], [], []]"
    assert notebook.errors == []


BREAK = """
from studio.probes import AttentionProbe
whole = AttentionProbe.end
def boom(*_): raise MemoryError('no room')
AttentionProbe.end = boom
"""


def test_a_watch_that_dies_says_so_and_begins_again(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("died.ipynb", [SETUP, "player = Studio(session, autoplay=False)\nplayer"])
    notebook = open_notebook("died.ipynb", width=1480, height=1100)
    page = notebook.page
    notebook.run_all()
    page.locator(".ls-inspect").wait_for(timeout=60_000)
    step(notebook, 2)
    notebook.execute(BREAK)
    step(notebook, 3)
    page.get_by_text("the cache is no longer watched: MemoryError: no room").wait_for()
    for name in ("Dark", "Light"):
        notebook.theme(f"JupyterLab {name}")
        page.locator(".ls-studio").screenshot(path=screenshots / f"died-{name.lower()}.png")
    notebook.execute("AttentionProbe.end = whole")
    page.get_by_role("button", name="Watch again").click()
    page.locator(".ls-trouble").wait_for(state="hidden")
    step(notebook, 5)
    assert notebook.execute("print(player.readings[-1].block, session.error)") == "4 None"
    page.locator(".ls-studio").focus()
    page.keyboard.press("End")
    notebook.until("() => /block 4 /.test(document.querySelector('.ls-heading').textContent)", "the new readings")
    assert notebook.errors == []
