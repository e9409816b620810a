"""The views of the cache in a real JupyterLab, over tiny networks of random weights: where a slot comes from needs no
training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.browser.test_widget import FRAME

SETUP = """
import studio
from studio.live import Session
from studio.model.text import WordTokenizer
from studio.timeline import Segment, Timeline
from studio.widgets import CacheStrip, HeadGrid, Studio, WordsOverTime
from tests.live.doubles import WORDS, tiny_models
models = tiny_models(window=9)
models.text.tokenizer = WordTokenizer(WORDS)
first, then = 'a red fox runs', 'the blue rabbit jumps'
timeline = Timeline((Segment(first), Segment(then, 6, policy='recache')), length=9)
session = Session(models, timeline=timeline)
"""
STRIP = "strip = CacheStrip(session)\nstrip"
STUDIO = "player = Studio(session)\nplayer"
CELLS = """() => [...document.querySelectorAll('.ls-slot:not(.ls-leaving)')].map((cell) => ({
    frame: cell.dataset.frame, prompt: cell.dataset.prompt, written: cell.dataset.written, role: cell.dataset.role,
    own: cell.dataset.own, colour: getComputedStyle(cell).backgroundColor, left: cell.getBoundingClientRect().left,
})).sort((a, b) => a.left - b.left)"""
# Looks at the window's cells at every refresh of the screen: what colours they pass through.
WATCH = """() => {
    window.studioColours = new Map();
    const look = () => {
        for (const cell of document.querySelectorAll('.ls-slot[data-own="false"][data-role="window"]')) {
            const key = cell.dataset.frame;
            const seen = window.studioColours.get(key) ?? [];
            const colour = getComputedStyle(cell).backgroundColor;
            if (seen.at(-1) !== colour) window.studioColours.set(key, [...seen, colour]);
        }
        requestAnimationFrame(look);
    };
    look();
}"""
# Where the parts of the studio stand in it, and how high they are.
PLACES = """() => {
    const from = document.querySelector('.ls-studio').getBoundingClientRect().top;
    return ['.ls-player', '.ls-inspect', '.ls-timeline', '.ls-compose'].map((name) => {
        const { top, height } = document.querySelector(name).getBoundingClientRect();
        return [Math.round(top - from), Math.round(height)];
    });
}"""
FIRST, THEN = "rgb(230, 159, 0)", "rgb(86, 180, 233)"


def step(notebook: Any, blocks: int) -> None:
    notebook.execute(
        f"import time\nend = time.monotonic() + 60\n"
        f"while session.stats.generated_blocks < {blocks} and time.monotonic() < end:\n"
        f"    before = session.stats.generated_blocks\n    session.step()\n"
        f"    while session.stats.generated_blocks == before and time.monotonic() < end: time.sleep(0.01)"
    )


def shown(notebook: Any, block: int) -> None:
    notebook.until(
        f"() => document.querySelector('.ls-heading')?.textContent === 'What block {block} could see'",
        f"the cache at block {block}",
    )


def provenance(notebook: Any, block: int) -> list[list[str]]:
    code = f"print([[str(s.frame), str(s.prompt), s.written, s.role] for s in strip._relay._watch.at({block}).slots])"
    return eval(notebook.execute(code))


def test_the_cells_turn_at_the_recache(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("cells.ipynb", [SETUP, STRIP])
    notebook = open_notebook("cells.ipynb", width=1000, height=800)
    page = notebook.page
    notebook.run_all()
    page.locator(".ls-inspect").wait_for(timeout=60_000)
    empty = page.locator(".ls-inspect").bounding_box()
    step(notebook, 6)
    shown(notebook, 5)
    page.wait_for_timeout(2000)
    # Nothing jumps when the first block comes.
    assert page.locator(".ls-inspect").bounding_box() == empty
    cells = page.evaluate(CELLS)
    assert [cell["frame"] for cell in cells] == [row[0] for row in provenance(notebook, 5)]
    assert {cell["colour"] for cell in cells if cell["own"] == "false"} == {FIRST}
    page.locator(".ls-inspect").screenshot(path=screenshots / "cache-before.png")
    strip = page.locator(".ls-strip").bounding_box()

    page.evaluate(WATCH)
    step(notebook, 7)
    shown(notebook, 6)
    page.wait_for_timeout(1800)
    cells = page.evaluate(CELLS)
    truth = provenance(notebook, 6)
    assert [[cell["frame"], cell["prompt"], cell["written"], cell["role"]] for cell in cells] == truth
    turned = [cell["frame"] for cell in cells if cell["role"] == "window" and cell["own"] == "false"]
    assert len(turned) == 6
    assert {cell["colour"] for cell in cells if cell["frame"] in turned} == {THEN}
    assert page.locator(".ls-strip").bounding_box() == strip, "what a recache has to tell moves nothing"
    assert "recached here" in page.locator(".ls-switched").inner_text()
    assert page.locator(".ls-scrubmarks i").count() == 1
    # The sink is kept: it still holds the old prompt.
    assert {cell["colour"] for cell in cells if cell["role"] == "sink"} == {FIRST}
    passed = page.evaluate("() => Object.fromEntries(window.studioColours)")
    # Block 5's own frames begin paler than the others, in the same colour.
    assert [passed[frame][0] for frame in turned[:3]] == [FIRST] * 3
    for frame in turned:
        assert passed[frame][0] != THEN
        assert passed[frame][-1] == THEN
        assert len(passed[frame]) > 2, "the colour turns, it does not jump"
    page.locator(".ls-inspect").screenshot(path=screenshots / "cache-after.png")

    # Before and after side by side, by hand.
    page.get_by_role("button", name="Before the switch").click()
    page.wait_for_timeout(1500)
    assert {cell["colour"] for cell in page.evaluate(CELLS) if cell["role"] != "empty"} == {FIRST}
    page.get_by_role("button", name="After", exact=True).click()

    # Everything about a slot, by mouse and by keys.
    cell = page.locator(f".ls-slot[data-frame='{turned[0]}']")
    cell.hover()
    detail = page.locator(".ls-detail")
    for text in (f"Latent frame {turned[0]}", "window", "recache before block 6", "the blue rabbit jumps", "%"):
        assert text in detail.inner_text()
    share = float(notebook.execute("print(strip._relay._watch.at(6).shares()[3] * 100)"))
    told = float(detail.inner_text().split("·")[-1].split("%")[0])
    assert abs(told - share) <= 0.5
    cell.focus()
    page.keyboard.press("ArrowRight")
    assert f"Latent frame {turned[1]}" in detail.inner_text()
    page.get_by_label("Layer", exact=True).select_option("1")
    page.get_by_label("Head", exact=True).select_option("0")
    pinned = float(notebook.execute("print(strip._relay._watch.at(6).shares(1, 0)[4] * 100)"))
    notebook.until(
        "() => Math.abs(parseFloat(document.querySelector('.ls-detail').textContent.split('·').at(-1))"
        f" - {pinned}) <= 0.5",
        "the share of one head",
    )

    # Back to an earlier block.
    page.get_by_label("Block", exact=True).fill("3")
    shown(notebook, 3)
    page.get_by_role("button", name="newest").click()
    shown(notebook, 6)
    for name in ("JupyterLab Dark", "JupyterLab Light"):
        notebook.theme(name)
        cell.hover()
        page.wait_for_timeout(400)
        page.locator(".ls-inspect").screenshot(path=screenshots / f"cache-{name.split()[-1].lower()}.png")
    assert notebook.execute("print(strip.errors, session.error)") == "[] None"
    assert notebook.errors == []
    assert notebook.foreign == []


def test_tabs_of_the_studio(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("tabs.ipynb", [SETUP, STUDIO])
    notebook = open_notebook("tabs.ipynb", width=1480, height=1100)
    page = notebook.page
    notebook.run_all()
    notebook.until(
        "() => document.querySelector('.ls-badge span:last-child')?.textContent === 'finished'", "the end", 120
    )
    shown(notebook, 8)
    page.wait_for_timeout(1500)
    stood = page.evaluate(PLACES)
    for name in ("Dark", "Light"):
        notebook.theme(f"JupyterLab {name}")
        for tab in ("Gaze", "Curves", "Volume", "Cache", "Words", "Heads"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate(PLACES) == stood, f"{tab} is as high as any other tab"
            if tab == "Words":
                word = page.locator(".ls-word", has_text="rabbit")
                if word.get_attribute("aria-pressed") != "true":
                    word.click()
                page.wait_for_timeout(500)
                assert page.locator(".ls-heatover i").count() > 0
                assert "rabbit" in page.locator(".ls-detail:visible").inner_text()
            if tab == "Heads":
                head = page.locator(".ls-head-cell").nth(3)
                if head.get_attribute("aria-pressed") != "true":
                    head.click()
                assert "Layer 1, head 1" in page.locator(".ls-detail:visible").inner_text()
            page.wait_for_timeout(400)
            page.locator(".ls-studio").screenshot(path=screenshots / f"studio-{tab.lower()}-{name.lower()}.png")

    # Going back in the film goes back in the cache.
    page.get_by_role("tab", name="Cache").click()
    pinned = page.get_by_label("Layer", exact=True).locator("visible=true").input_value()
    assert pinned == "1", "a head pinned in one view is pinned in all"
    page.locator(".ls-studio").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    notebook.until(
        "() => /block [67] /.test(document.querySelector('.ls-inspect .ls-heading').textContent)", "an earlier block"
    )
    page.get_by_role("button", name="Stop looking at the cache").click()
    page.locator(".ls-inspect").wait_for(state="hidden")
    assert notebook.execute("print(session._core.observer)") == "None"
    page.screenshot(path=screenshots / "studio-closed.png")
    page.set_viewport_size({"width": 800, "height": 1400})
    page.get_by_role("button", name="Cache", exact=True).click()
    page.locator(".ls-inspect").wait_for()
    page.wait_for_timeout(600)
    page.locator(".ls-studio").screenshot(path=screenshots / "studio-narrow.png")
    assert notebook.execute("print(player.errors, session.error)") == "[] None"
    assert notebook.errors == []
    assert notebook.foreign == []


FAULT = """
def zero(_module, _args, kwargs):
    cache = kwargs['context'].cache
    if cache.end >= 9:
        cache.keys[1][:, : cache.tokens] = 0
handle = models.dit.register_forward_pre_hook(zero, with_kwargs=True)
"""


def test_a_fault_shows_as_a_badge(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("fault.ipynb", [SETUP, STRIP])
    notebook = open_notebook("fault.ipynb", width=1000, height=800)
    page = notebook.page
    notebook.run_all()
    page.locator(".ls-inspect").wait_for(timeout=60_000)
    step(notebook, 3)
    shown(notebook, 2)
    badge = page.locator(".ls-health")
    assert badge.inner_text() == "healthy"
    notebook.execute(FAULT)
    step(notebook, 6)
    shown(notebook, 5)
    assert badge.inner_text() == "1 warning"
    badge.click()
    told = page.locator(".ls-faults").inner_text()
    assert told == notebook.execute("print(strip._relay._watch.warnings[0].message)")
    assert "zero" in told
    page.wait_for_timeout(500)
    page.locator(".ls-inspect").screenshot(path=screenshots / "cache-fault.png")
    notebook.execute("session.restart()")
    step(notebook, 1)
    shown(notebook, 0)
    assert badge.inner_text() == "healthy"
    assert page.locator(".ls-faults").is_hidden()
    assert notebook.errors == []


def test_a_point_of_the_picture(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("gaze.ipynb", [SETUP, "player = Studio(session, autoplay=False)\nplayer"])
    notebook = open_notebook("gaze.ipynb", width=1480, height=1100)
    page = notebook.page
    notebook.run_all()
    page.locator(".ls-inspect").wait_for(timeout=60_000)
    step(notebook, 2)
    page.get_by_role("tab", name="Gaze").click()
    asking = page.locator(".ls-ask").nth(1)
    asking.wait_for()
    box = asking.bounding_box()
    assert box is not None
    # The picture is 24 by 16 pixels, and is shown in that shape.
    assert abs(box["width"] / box["height"] - 24 / 16) < 0.02
    # Token row 0 of two, column 2 of three.
    asking.click(position={"x": box["width"] * 0.9, "y": box["height"] * 0.2})
    notebook.until("() => document.querySelector('.ls-point:not([hidden])') !== null", "the mark of the point")
    # Nothing is being made, so the block in sight is made once more; the blocks to come have the point as well.
    page.locator(".ls-point[data-read='true']").wait_for(timeout=60_000)
    step(notebook, 5)
    assert notebook.execute("print(player.readings[-1].point)") == "Point(frame=1, row=0, column=2)"
    # Blocks 0 and 1 were made before the point was asked for, and one of them may not have been in sight since: whoever
    # looks back on it sees the point all the same.
    page.locator(".ls-studio").focus()
    page.keyboard.press("Home")
    for block in range(5):
        page.keyboard.press("ArrowRight")  # plays to the end of the block
        last = int(notebook.execute(f"print(session.timeline.start_frame({block + 1}))")) - 1
        notebook.until(f"() => {FRAME} === {last}", f"the last frame of block {block}")
        page.get_by_text(f"Where a point of block {block} looks").wait_for(timeout=60_000)
    told = f"reading = player._relay._watch.at({block})\n"
    assert notebook.execute(told + "print(reading.point.frame, reading.point.row, reading.point.column)") == "1 0 2"
    shares = page.locator(".ls-look figcaption").all_inner_texts()
    wanted = notebook.execute(
        told + "print([(slot.frame, float(100 * gaze.sum())) for slot, gaze in zip(reading.slots, reading.gaze)"
        " if slot.frame is not None])"
    )
    for text, (frame, share) in zip(shares, eval(wanted), strict=True):
        assert text.startswith(f"{frame}: ")
        assert abs(float(text.split(": ")[1].split(" ")[0]) - share) <= 0.5
    # What is drawn is what was read: the strongest position is the most opaque pixel.
    drawn = page.evaluate(
        """() => [...document.querySelectorAll('.ls-gaze')].map((canvas) => {
            const image = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            return [...image.data].filter((_, i) => i % 4 === 3);
        })"""
    )
    strongest = eval(notebook.execute(told + "import numpy as np\nprint(int(np.nanargmax(reading.gaze)))"))
    opacity = [value for picture in drawn for value in picture]
    assert opacity[strongest] == max(opacity)
    for name in ("Dark", "Light"):
        notebook.theme(f"JupyterLab {name}")
        page.locator(".ls-studio").screenshot(path=screenshots / f"studio-gaze-{name.lower()}.png")
    assert notebook.execute("print(player.errors, session.error)") == "[] None"
    assert notebook.errors == []
