"""The timeline editor in a real JupyterLab: every edit by mouse or key is an operation that both sides know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import REPOSITORY
from tests.browser.test_widget import BOX, CONTRAST, FRAME, SETUP, SMALL, STATE, beyond, clean, state

STORY = """from studio.timeline import *
def story():
    return Timeline(
        (
            Segment("a red ball rolls in the snow"),
            Segment("the blue fox jumps", 30, transition=Transition(3), blend=(Weighted("a fox at night", 0.5),)),
            Segment("the red fox sleeps by the sea", 38, transition=Transition(2, "spherical")),
            Segment("a green ball in the desert", 46),
        ),
        56,
        7,
        markers=(Marker(33, "jump"),),
    )
"""
# It pauses by itself, so that what is made stays far before what is edited however slow the machine is.
SHOW = """source = Double(block_s=0.2)
source.timeline = story()
source.subscribe(lambda event: source.pause() if event.kind == 'block' and event.payload.index == 3 else None)
widget = Studio(source)
widget"""
COUNT = "() => document.querySelectorAll('.ls-segment').length"
SCALE = """() => {
    const lane = document.querySelector('.ls-lanebox').getBoundingClientRect();
    const all = [...document.querySelectorAll('.ls-segment')];
    const segments = all.map((element) => element.getBoundingClientRect().left);
    return { left: lane.left, top: lane.top, width: lane.width, height: lane.height, segments };
}"""


def open_story(lab: Any, open_notebook: Any, name: str, **size: int) -> Any:
    lab.add(name, [SETUP + "\n" + STORY, SHOW])
    notebook = open_notebook(name, **{"width": 1400, "height": 1250, **size})
    notebook.run_all()
    beyond(notebook, 12)
    state(notebook, "paused")
    notebook.page.locator(".ls-studio").focus()
    notebook.until(f"{COUNT.replace('() =>', '() => 4 ===')}", "four prompts")
    return notebook


def starts(notebook: Any) -> list[int]:
    return json.loads(notebook.execute("print([s.start for s in widget.timeline.segments])"))


SHOWN = """() => [...document.querySelectorAll('.ls-segment')]
    .map((one) => Number(/\\(block (\\d+)\\)/.exec(one.getAttribute('aria-label'))?.[1]))"""


def until_starts(notebook: Any, expected: list[int]) -> None:
    """Wait until both sides have the prompts at these blocks, and the page shows them in their places."""
    notebook.until_told("print([s.start for s in widget.timeline.segments])", str(expected))
    notebook.until(
        f"() => JSON.stringify(({SHOWN})()) === '{json.dumps(expected, separators=(',', ':'))}'", str(expected)
    )
    notebook.settled()


def undo(notebook: Any, expected: list[int] = [0, 30, 38, 46]) -> None:  # noqa: B006
    """Undo an edit from Python."""
    notebook.execute("widget.undo()")
    until_starts(notebook, expected)


def drag(notebook: Any, index: int, blocks: float, *, edge: bool = False, shift: bool = False) -> None:
    """Drag a segment, or the edge where it begins, by some blocks."""
    page = notebook.page
    notebook.settled()  # Segments move softly to where another edit has put them.
    scale = page.evaluate(SCALE)
    seconds = float(notebook.execute("print(widget.timeline.start_seconds(56))"))
    block = 0.75 / seconds * scale["width"]
    x = scale["segments"][index] + (1 if edge else 40)
    y = scale["top"] + scale["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    if shift:
        page.keyboard.down("Shift")
    for step in range(1, 9):
        page.mouse.move(x + blocks * block * step / 8, y)
    page.mouse.up()
    if shift:
        page.keyboard.up("Shift")


def test_by_mouse(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    notebook = open_story(lab, open_notebook, "mouse.ipynb")
    page = notebook.page
    assert starts(notebook) == [0, 30, 38, 46]

    # A prompt is dragged to another place in time; undone from Python, done again from the page.
    drag(notebook, 1, 3)
    until_starts(notebook, [0, 33, 41, 46])
    undo(notebook)
    page.get_by_role("button", name="Do again").click()
    until_starts(notebook, [0, 33, 41, 46])
    page.keyboard.press("Control+z")
    until_starts(notebook, [0, 30, 38, 46])

    # An edge takes from its neighbour; with Shift all that follows moves along. The marker catches an edge near it.
    drag(notebook, 2, 2, edge=True)
    until_starts(notebook, [0, 30, 40, 46])
    undo(notebook)
    drag(notebook, 3, 4, edge=True)
    until_starts(notebook, [0, 30, 38, 50])
    undo(notebook)
    drag(notebook, 2, -4.85, edge=True)
    until_starts(notebook, [0, 30, 33, 46])
    undo(notebook)

    # Far enough it takes another place in the order.
    drag(notebook, 3, -16)
    until_starts(notebook, [0, 30, 40, 48])
    assert notebook.execute("print(widget.timeline.segments[1].prompt)") == "a green ball in the desert"
    undo(notebook)

    # Chosen with Shift, copied as one, removed as one: each is one step back.
    page.locator(".ls-segment").nth(1).click()
    page.locator(".ls-segment").nth(2).click(modifiers=["Shift"])
    assert page.locator('.ls-segment[aria-selected="true"]').count() == 2
    page.get_by_role("button", name="Duplicate (D)").click()
    notebook.until(f"() => ({COUNT})() === 6", "the copies")
    undo(notebook)
    page.locator(".ls-segment").nth(3).click()
    page.get_by_role("button", name="Remove (Delete)").click()
    notebook.until(f"() => ({COUNT})() === 3", "the removal")
    undo(notebook)

    # The form: text, weights and transition, shown in the lanes while they are written.
    page.locator(".ls-segment").nth(2).dblclick()
    page.keyboard.press("Control+a")
    page.keyboard.type("the red fox <b>sleeps</b>")
    page.get_by_role("button", name="mix in another prompt").click()
    page.keyboard.type("a blue ball")
    page.get_by_role("spinbutton", name="Its weight").fill("3")
    page.get_by_role("spinbutton", name="Blocks over which").fill("4")
    notebook.settled()
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(SMALL) == []
    page.locator(".ls-studio").screenshot(path=screenshots / "timeline-form.png")
    page.get_by_role("button", name="Apply").click()
    notebook.until("() => document.querySelectorAll('.ls-segment')[2].textContent.includes('<b>')", "the edit")
    told = notebook.execute("s = widget.timeline.segments[2]; print(s.prompt, s.parts[1], s.transition.blocks)")
    assert told == "the red fox <b>sleeps</b> ('a blue ball', 0.75) 4"
    assert notebook.execute("print(widget.editor.describe()['history']['undo'])") == "change"

    # What is told under the pointer is what Python says of that block.
    scale = page.evaluate(SCALE)
    page.mouse.move(scale["segments"][2] + 5, scale["top"] + 10)
    line = page.locator(".ls-told")
    line.get_by_text("block 38").wait_for()
    shares = json.loads(
        notebook.execute(
            "import json; from studio.timeline.messages import preview; "
            "p = preview(widget.timeline, 38, 39); print(json.dumps(dict(zip(p['prompts'], p['shares'][0]))))"
        )
    )
    for prompt, share in sorted(shares.items(), key=lambda item: -item[1])[:3]:
        assert f"{round(share * 100)} % {prompt}" in line.inner_text()

    # A marker is dragged like an edge, and the strip above shows another part.
    flag = page.locator(".ls-flag").bounding_box()
    page.mouse.move(flag["x"] + 14, flag["y"] + 6)
    page.mouse.down()
    page.mouse.move(flag["x"] + 14 + 5 * 0.75 / 41.8 * scale["width"], flag["y"] + 6, steps=6)
    page.mouse.up()
    notebook.until("() => document.querySelector('.ls-flag').dataset.block !== '33'", "the marker elsewhere")
    assert notebook.execute("print(widget.timeline.markers[0].block)") == page.locator(".ls-flag").get_attribute(
        "data-block"
    )
    page.get_by_role("button", name="Zoom in (+)").click(click_count=3)
    page.locator(".ls-overview").click(position={"x": 1000, "y": 8})
    notebook.until("() => document.querySelector('.ls-times').textContent.includes('0:38')", "a later part")
    clean(notebook)


def test_by_keys_alone(lab: Any, open_notebook: Any) -> None:
    notebook = open_story(lab, open_notebook, "keyboard.ipynb")
    page = notebook.page
    press = page.keyboard.press
    page.locator(".ls-studio").focus()

    # Choose, go on, take several.
    press("ArrowDown")
    press("ArrowDown")
    notebook.until("() => document.activeElement.getAttribute('aria-posinset') === '2'", "the focus on the second")
    assert "Prompt 2 of 4, still to come: the blue fox jumps" in page.evaluate(
        "() => document.activeElement.getAttribute('aria-label')"
    )
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"

    # Move it, its edges, its place in the order; every press is one step.
    press("Alt+ArrowRight")
    until_starts(notebook, [0, 31, 39, 46])
    press("<")
    until_starts(notebook, [0, 30, 39, 46])
    press("}")
    until_starts(notebook, [0, 30, 40, 46])
    press("r")
    press("{")
    until_starts(notebook, [0, 30, 39, 45])
    press("r")
    press("Shift+Alt+ArrowRight")
    until_starts(notebook, [0, 30, 36, 45])
    notebook.until("() => document.activeElement.getAttribute('aria-posinset') === '3'", "the focus on the third")
    for _ in range(5):
        press("Control+z")
    until_starts(notebook, [0, 30, 38, 46])
    press("Control+Shift+z")
    until_starts(notebook, [0, 31, 39, 46])
    press("Control+z")
    until_starts(notebook, [0, 30, 38, 46])

    # Duplicate, remove, remove and close the gap.
    press("Escape")
    press("ArrowDown")
    press("ArrowDown")
    press("d")
    until_starts(notebook, [0, 30, 38, 46, 54])
    press("Delete")
    notebook.until(f"() => ({COUNT})() === 4", "the removal")
    press("Control+z")
    press("Control+z")
    until_starts(notebook, [0, 30, 38, 46])

    # The form and back; Escape changes nothing.
    press("Enter")
    page.get_by_role("dialog", name="Edit a prompt").wait_for()
    page.keyboard.type("nothing of this stays")
    press("Escape")
    notebook.until("() => document.activeElement.classList.contains('ls-segment')", "the focus where it was")
    press("Enter")
    press("Control+a")
    page.keyboard.type("a hare jumps")
    press("Enter")
    notebook.until(
        "() => [...document.querySelectorAll('.ls-segment')].some((s) => s.textContent === 'a hare jumps')", "the text"
    )

    # A prompt is written as a quick one, its key switches at once.
    notebook.execute("widget.quick_prompts = {'night': 'the blue fox runs at night'}")
    page.get_by_role("button", name="Switch to night").wait_for()
    page.locator(".ls-studio").focus()
    press("1")
    notebook.until(
        "() => [...document.querySelectorAll('.ls-segment')].some((s) => s.textContent.includes('runs at night'))",
        "the switch",
    )
    press("Control+z")
    notebook.until(f"() => ({COUNT})() === 4", "the step back")

    # Beyond what was made the playhead becomes a cursor: edits happen there.
    scale = page.evaluate(SCALE)
    ruler = page.locator(".ls-axis").bounding_box()
    page.mouse.click(scale["left"] + 0.4 * scale["width"], ruler["y"] + 8)
    page.locator(".ls-cursor").wait_for()
    page.locator(".ls-studio").focus()
    press("s")
    notebook.until(f"() => ({COUNT})() === 5", "the split")
    at = starts(notebook)[1]
    assert notebook.execute("print(widget.timeline.segments[1].policy)") == "keep"
    press("m")
    notebook.until("() => document.querySelectorAll('.ls-flag').length === 2", "the marker")
    press("ArrowRight")
    press("ArrowRight")
    press("m")
    notebook.until("() => document.querySelectorAll('.ls-flag').length === 3", "another marker")
    assert f"[{at}, {at + 2}, " in notebook.execute("print([m.block for m in widget.timeline.markers])")

    # A marker is reached by Tab, named and removed.
    page.locator(f'.ls-flag[data-block="{at}"]').focus()
    press("F2")
    page.keyboard.type("here it turns")
    press("Enter")
    notebook.until("() => document.querySelector('.ls-flag').textContent === 'here it turns'", "its name")
    press("Alt+ArrowRight")
    notebook.until(f"() => document.querySelector('.ls-flag').dataset.block === '{at + 1}'", "its new place")
    press("Delete")
    notebook.until("() => document.querySelectorAll('.ls-flag').length === 2", "its end")

    # Every control is reached by Tab, each with a name, and the focus can be seen.
    page.locator(".ls-studio").focus()
    seen = []
    for _ in range(80):
        press("Tab")
        told = page.evaluate(
            """() => {
                const at = document.activeElement;
                if (!at.closest('.ls-studio') || at.matches('.ls-studio')) return null;
                const name = at.getAttribute('aria-label') || at.textContent || at.getAttribute('placeholder');
                const outline = getComputedStyle(at).outlineStyle;
                return { name, seen: outline !== 'none' || at.matches('.ls-seek, .ls-divider'), kind: at.className };
            }"""
        )
        if told is None:
            break
        assert told["name"], told
        assert told["seen"], told
        seen.append(told["kind"])
    for part in ("ls-tool", "ls-window", "ls-flag", "ls-segment", "ls-add", "ls-takename", "ls-chip", "ls-files"):
        assert any(part in kind for kind in seen), (part, seen)
    press("?") if page.evaluate("() => document.activeElement.closest('.ls-studio') !== null") else None
    clean(notebook)


def test_the_past_is_asked_about(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    models = "import studio\nfrom tests.live.doubles import tiny_models"
    session = (
        'session = studio.open(tiny_models(), prompt="a red fox runs in the snow", lead=2)\n'
        "widget = studio.Studio(session, inspect=False)\nwidget"
    )
    lab.add("past.ipynb", [models, session])
    notebook = open_notebook("past.ipynb", width=1400, height=1250)
    notebook.run_all()
    beyond(notebook, 50, 120)
    page = notebook.page
    page.locator(".ls-studio").focus()
    page.keyboard.press("Space")
    notebook.until_told(
        "print(session.state, session.stats.generated_blocks == session.editor.describe()['begun'])", "paused True"
    )
    page.locator(".ls-segment").first.dblclick()
    page.keyboard.press("Control+a")
    page.keyboard.type("a blue fox jumps in the snow")
    page.keyboard.press("Enter")
    asked = page.get_by_role("alertdialog")
    asked.wait_for()
    assert "from 0:00.0 (block 0) on" in asked.inner_text()
    assert page.evaluate(CONTRAST) == []
    page.locator(".ls-studio").screenshot(path=screenshots / "timeline-past.png")

    # Cancelled it never was; kept, only what is to come changes; forked, another take grows.
    page.keyboard.press("Escape")
    asked.wait_for(state="hidden")
    assert notebook.execute("print(len(session.timeline.segments), session.editor.version)") == "1 0"
    page.locator(".ls-segment").first.dblclick()
    page.keyboard.press("Control+a")
    page.keyboard.type("a blue fox jumps in the snow")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Keep what was made").click()
    notebook.until(f"() => ({COUNT})() === 2", "the change to come")
    begun = int(notebook.execute("print(session.timeline.segments[1].start)"))
    assert begun >= 3
    page.locator(".ls-segment").first.dblclick()
    page.keyboard.press("Control+a")
    page.keyboard.type("a rabbit runs in the snow")
    page.keyboard.press("Enter")
    asked.wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    notebook.until("() => document.querySelectorAll('.ls-takerow').length === 2", "another take")
    assert notebook.execute("print(session.take, session.timeline.segments[0].prompt)").endswith(
        "1 a rabbit runs in the snow"
    )

    # Undo goes back to the take before the fork, and redo to the fork.
    page.get_by_role("button", name="Undo the fork").click()
    notebook.until(f"() => ({COUNT})() === 2", "the take before the fork")
    assert notebook.execute("print(session.take, len(session.takes))") == "0 2"
    page.get_by_role("button", name="Do again: the fork").click()
    notebook.until(
        "() => document.querySelectorAll('.ls-takerow')[1].getAttribute('aria-selected') === 'true'", "the fork"
    )

    # Takes are named and switched between in the tree; the timeline goes with them.
    row = page.locator(".ls-takename").nth(1)
    row.focus()
    page.keyboard.press("F2")
    page.keyboard.press("Control+a")
    page.keyboard.type("rabbit")
    page.keyboard.press("Enter")
    notebook.until("() => document.querySelectorAll('.ls-takename')[1]?.textContent === 'rabbit'", "its name")
    assert notebook.execute("print(session.takes[1].name)") == "rabbit"
    page.locator(".ls-takename").first.click()
    notebook.until(f"() => ({COUNT})() === 2", "the first take's prompts")
    assert notebook.execute("print(session.take)") == "0"
    notebook.until(
        "() => document.querySelector('.ls-takerow').getAttribute('aria-selected') === 'true'", "its row chosen"
    )
    page.locator(".ls-takename").nth(1).focus()
    page.keyboard.press("Delete")
    notebook.until("() => document.querySelectorAll('.ls-takerow').length === 1", "its end")

    # A split at the playhead changes nothing of what was made, so nothing is asked.
    page.locator(".ls-studio").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    notebook.until(f"() => {STATE} === 'paused' && {FRAME} > 5", "the end of the first block")
    page.keyboard.press("s")
    notebook.until(f"() => ({COUNT})() === 3", "the split")
    assert not asked.is_visible()
    page.keyboard.press("Control+z")
    notebook.until(f"() => ({COUNT})() === 2", "the step back")

    # Made again, another take stands in the place of this one, under its name, and undo still knows what was edited.
    page.locator(".ls-segment").first.dblclick()
    page.keyboard.press("Control+a")
    page.keyboard.type("a rabbit jumps in the snow")
    page.keyboard.press("Enter")
    asked.wait_for()
    asked.get_by_role("button", name="Make it again").click()
    notebook.until_told(
        "print([t.name for t in session.takes], session.timeline.segments[0].prompt)",
        "['take 1'] a rabbit jumps in the snow",
    )
    notebook.until(
        "() => document.querySelector('.ls-segment').textContent === 'a rabbit jumps in the snow'", "its prompt"
    )
    # The number of the take that was removed is not given again.
    assert (
        notebook.execute(
            "print(session.take, session.takes.current.blocks, session.editor.describe()['history']['undo'])"
        )
        == "2 0 change"
    )
    page.locator(".ls-studio").focus()
    page.keyboard.press("Space")
    notebook.until_told("print([r.prompt for r in session.log][:1])", "['a rabbit jumps in the snow']")
    notebook.until(
        "() => { const c = document.querySelector('.ls-frames'); const d = c.getContext('2d').getImageData(4, 4, 1, 1)"
        ".data; return d[3] === 255; }",
        "a small picture of what was made",
    )
    assert notebook.execute("print(widget.errors)") == "[]"
    clean(notebook)


def test_two_studios_and_a_reload(lab: Any, open_notebook: Any) -> None:
    two = "a, b = Double('a red ball', block_s=0.3), Double('a blue fox', block_s=0.3)\na.timeline = story()"
    lab.add("twice.ipynb", [SETUP + "\n" + STORY, two, "first = Studio(a)\nfirst", "second = Studio(b)\nsecond"])
    notebook = open_notebook("twice.ipynb", width=1300, height=2300)
    page = notebook.page
    notebook.run_all()
    notebook.until("() => document.querySelectorAll('.ls-segment').length === 5", "both timelines")
    for view, name in enumerate("ab"):
        notebook.until(f"() => Number(document.querySelectorAll('.ls-picture')[{view}].dataset.frame) > 12", "frames")
        # What is made stays far before what is edited.
        notebook.execute(f"{name}.pause()")
        notebook.until_told(f"print({name}.state)", "paused")
    one, other = page.locator(".ls-studio").nth(0), page.locator(".ls-studio").nth(1)

    # Copied in one, inserted in the other, and each has its own history.
    one.locator(".ls-segment").nth(1).click()
    one.locator(".ls-segment").nth(2).click(modifiers=["Control"])
    page.keyboard.press("Control+c")
    ruler = other.locator(".ls-axis").bounding_box()
    page.mouse.click(ruler["x"] + 0.9 * ruler["width"], ruler["y"] + 8)
    other.focus()
    page.keyboard.press("Control+v")
    notebook.until(
        "() => document.querySelectorAll('.ls-studio')[1].querySelectorAll('.ls-segment').length >= 3", "the insertion"
    )
    told = notebook.execute("print([s.prompt for s in second.timeline.segments][1:3], first.timeline == story())")
    assert told == "['the blue fox jumps', 'the red fox sleeps by the sea'] True"
    assert notebook.execute("print(second.timeline.segments[1].blend[0].weight)") == "0.5"
    page.keyboard.press("Control+z")
    notebook.until(
        "() => document.querySelectorAll('.ls-studio')[1].querySelectorAll('.ls-segment').length === 1", "its undoing"
    )
    assert notebook.execute("print(first.timeline == story())") == "True"

    # A page that is loaded again shows what there is, and undo goes on where it was.
    one.locator(".ls-segment").nth(3).click()
    page.keyboard.press("Delete")
    notebook.until(
        "() => document.querySelectorAll('.ls-studio')[0].querySelectorAll('.ls-segment').length === 3", "a removal"
    )
    notebook.command("docmanager:save", wait=True)
    page.reload(wait_until="domcontentloaded")
    notebook.wait_idle()
    notebook.until(
        "() => document.querySelectorAll('.ls-studio')[0]?.querySelectorAll('.ls-segment').length === 3", "three again"
    )
    page.locator(".ls-studio").nth(0).focus()
    page.keyboard.press("Control+z")
    notebook.until(
        "() => document.querySelectorAll('.ls-studio')[0].querySelectorAll('.ls-segment').length === 4", "four again"
    )
    assert notebook.execute("print(first.timeline == story(), first.errors, second.errors)") == "True [] []"
    clean(notebook)


def test_files_and_quick_prompts(lab: Any, open_notebook: Any, tmp_path: Path) -> None:
    notebook = open_story(lab, open_notebook, "files.ipynb")
    page = notebook.page
    with page.expect_download() as download:
        page.locator(".ls-files").select_option("txt")
    assert download.value.suggested_filename == "timeline.txt"
    page.get_by_text("this format cannot hold").first.wait_for()
    with page.expect_download() as download:
        page.locator(".ls-files").select_option("json")
    saved = tmp_path / "timeline.json"
    download.value.save_as(saved)
    assert notebook.execute(f"print(widget.timeline == Timeline.from_json({saved.read_text()!r}))") == "True"

    story = tmp_path / "story.txt"
    story.write_text("a red ball rolls in the snow\nthe blue fox runs\n")
    page.locator(".ls-tools input[type=file]").set_input_files(story)
    page.get_by_role("alertdialog").wait_for()  # The first prompt lasts less long than before: nothing made is lost.
    page.get_by_role("button", name="Keep what was made").click()
    notebook.until(
        "() => [...document.querySelectorAll('.ls-segment')].some((s) => s.textContent === 'the blue fox runs')",
        "the file's prompts",
    )
    bad = tmp_path / "story.json"
    bad.write_text("{]")
    page.locator(".ls-tools input[type=file]").set_input_files(bad)
    notebook.until("() => document.querySelector('.ls-told').textContent.includes('JSON')", "a sentence")

    # Quick prompts are kept from the box, edited, and known to Python.
    page.locator(BOX).fill("a hare sleeps in the forest")
    page.get_by_role("button", name="Keep the prompt in the box").click()
    page.get_by_role("button", name="Switch to the forest").wait_for()
    page.get_by_role("button", name="Edit the quick prompts").click()
    page.get_by_role("textbox", name="Name", exact=True).fill("hare")
    page.get_by_role("button", name="Add", exact=True).click()
    page.keyboard.type("only a name")
    page.keyboard.press("Enter")
    page.get_by_text("must not be empty").wait_for()
    page.get_by_role("textbox", name="Prompt", exact=True).nth(1).fill("a blue ball")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Switch to only a name").wait_for()
    told = notebook.execute("print(widget.quick_prompts)")
    assert told == "{'hare': 'a hare sleeps in the forest', 'only a name': 'a blue ball'}"
    clean(notebook)


# What follows is about the page alone, without a notebook: its kernel agrees to everything, or says what it is told to.
STATIC = REPOSITORY / "studio" / "widgets" / "static"
ADDRESS = "http://localhost/"
ALONE = """<!doctype html><meta charset=utf-8><link rel=stylesheet href=studio.css>
<div id=a style="width:1000px"></div><div id=b style="width:1000px"></div>
<script type=module>
import make from "./studio.js";
window.show = (view, hello, places) => {
    const on = {}, values = { view, width: "100%", key: "abcdef0123456789", scene: null, scened: {} };
    const hear = (message) => (on["msg:custom"] ?? []).slice().forEach((heard) => heard(message, []));
    const answer = (command) => {
        const { type, client, id } = command;
        if (type === "ready" && hello) hear(hello);
        else if (type === "ping") hear({ type: "pong", client, id });
        else if (type === "words") hear({ type: "words", client, id, unknown: [] });
        else if (id !== undefined) hear({ type: "reply", client, id, error: null, ...model.answers[type] });
    };
    const model = {
        sent: [], answers: {}, hear,
        get: (name) => values[name], save_changes() {},
        on: (name, heard) => (on[name] ??= []).push(heard),
        off: (name, heard) => (on[name] = (on[name] ?? []).filter((other) => other !== heard)),
        send: (command) => { model.sent.push(command); queueMicrotask(() => answer(command)); },
    };
    const widget = make();
    widget.initialize({ model });
    for (const place of places) widget.render({ model, el: document.getElementById(place) });
    window.model = model;
};
</script>"""
STORIES = [
    {"prompt": "a red fox runs", "start": 0, "colour": 0},
    {"prompt": "a blue hare sleeps", "start": 8, "colour": 1},
]
TAKE = {"number": 0, "name": "take 1", "parent": None, "forked_at": 0, "blocks": 5, "seed": 1, "current": True}
TIMES = ("generated_fps", "played_fps", "denoise_ms", "commit_ms", "recache_ms", "vae_ms", "switch_latency_s", "lead_s")


def greeting(**more: Any) -> dict[str, Any]:
    """What a kernel says first of two prompts, two takes and five blocks that were made."""
    line = {"segments": STORIES, "length": None, "markers": [{"block": 12, "name": "here"}], "shades": {}}
    line["history"] = {"version": 1, "undo": None, "redo": None, "steps": [0, 0]}
    stats = dict.fromkeys((*TIMES, "next_frame_s")) | {"device_state": "", "seed": 1, "device": "cpu"}
    stats |= {"take": 0, "generated_blocks": 5, "generated_frames": 57, "dropped_frames": 0}
    takes = [TAKE, TAKE | {"number": 1, "name": "take 2", "parent": 0, "forked_at": 2, "current": False}]
    hello = {"type": "hello", "version": 2, "name": "fake", "fps": 16, "width": 128, "height": 128, "take": 0}
    hello |= {"grid": {"first": 9, "rest": 12}, "playhead": 0, "live": 0, "made": 57, "state": "paused", "error": None}
    hello |= dict.fromkeys(("forkable", "startable", "exportable", "frames", "editable"), True) | {"export": None}
    hello |= dict.fromkeys(("watchable", "watching", "measuring", "rereads", "looks_back"), False) | {"trouble": None}
    hello |= {"again": {"busy": False, "error": None}, "origin": "", "quick": [], "switches": [], "takes": takes}
    return hello | {"timeline": line, "stats": stats} | more


@contextmanager
def alone(browser: Any, hello: dict[str, Any] | None, view: str = "studio", places: str = "a") -> Iterator[Any]:
    """The studio in a page without a notebook, once or twice."""
    context = browser.new_context(viewport={"width": 1100, "height": 1000})
    page = context.new_page()
    files = {"": ALONE, **{name: (STATIC / name).read_text() for name in ("studio.js", "studio.css")}}
    kinds = {"": "text/html", "studio.js": "text/javascript", "studio.css": "text/css"}

    def serve(route: Any) -> None:
        name = route.request.url.removeprefix(ADDRESS)
        if name in files:
            route.fulfill(body=files[name], content_type=kinds[name] + "; charset=utf-8")
        else:
            route.fulfill(status=404)

    page.route("**/*", serve)
    page.goto(ADDRESS)
    page.wait_for_function("() => window.show")
    page.evaluate("([view, hello, places]) => show(view, hello, places)", [view, hello, list(places)])
    page.wait_for_function("() => document.querySelector('.ls-studio')?.getBoundingClientRect().width > 0")
    if view == "studio":
        page.wait_for_function("() => document.querySelectorAll('.ls-segment').length >= 2")
    yield page
    context.close()


def asked(page: Any, *kinds: str) -> list[dict[str, Any]]:
    """What the page asked the kernel for, without names and numbers."""
    sent = page.evaluate("(kinds) => model.sent.filter((command) => kinds.includes(command.type))", list(kinds))
    return [{name: value for name, value in command.items() if name not in ("client", "id")} for command in sent]


def operations(page: Any) -> list[dict[str, Any]]:
    return [command["operation"] for command in asked(page, "edit")]


def pull(page: Any, x: float, y: float, to: float) -> None:
    """Drag something slowly enough for the page to be drawn many times meanwhile."""
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 17):
        page.mouse.move(x + (to - x) * step / 16, y)
        page.wait_for_timeout(25)
    page.mouse.up()
    page.wait_for_function("() => model.sent.some((command) => command.type === 'edit')")


@pytest.mark.parametrize(
    ("length", "take", "to", "expected"),
    [
        # The end of forty blocks, a tenth of the lane to the left.
        (40, "end", 0.9, {"op": "resize", "segment_index": 1, "edge": "end", "to": 36, "ripple": False}),
        # Twenty seconds of a film without an end are in sight: of its last prompt, and of its marker.
        (None, "segment", 0.86, {"op": "resize", "segment_index": 1, "edge": "start", "to": 23, "ripple": False}),
        (None, "marker", 0.9, {"op": "move mark", "at": 12, "to": 24}),
    ],
)
def test_what_lies_under_the_pointer_is_what_is_sent(
    browser: Any, length: int | None, take: str, to: float, expected: dict[str, Any]
) -> None:
    hello = greeting()
    hello["timeline"]["length"] = length
    with alone(browser, hello) as page:
        page.get_by_role("button", name="Edges catch").click()
        lane = page.locator(".ls-lanebox").bounding_box()
        place = {"marker": ".ls-flag", "segment": ".ls-segment >> nth=1"}.get(take)
        box = page.locator(place).bounding_box() if place else lane
        x = box["x"] + 2 if place else lane["x"] + lane["width"] - 2
        pull(page, x, box["y"] + box["height"] / 2, lane["x"] + to * lane["width"])
        assert operations(page) == [expected]


def test_a_marker_is_named_by_two_clicks(browser: Any) -> None:
    with alone(browser, greeting()) as page:
        page.locator(".ls-flag").dblclick(position={"x": 16, "y": 6})
        page.locator(".ls-naming").wait_for()
        page.keyboard.type("there")
        compose(page, ".ls-naming")
        assert page.locator(".ls-naming").is_visible()
        page.keyboard.press("Enter")
        page.wait_for_function("() => model.sent.some((command) => command.type === 'edit')")
        assert operations(page) == [{"op": "mark", "marker": {"block": 12, "name": "there"}}]
        page.locator(".ls-axis").dblclick(position={"x": 700, "y": 6})
        assert not page.locator(".ls-naming").is_visible()


def compose(page: Any, box: str) -> None:
    """Press the keys that take a word from an input method, or give it up."""
    page.locator(box).first.evaluate(
        """(box) => {
            const composing = { bubbles: true, cancelable: true, isComposing: true };
            for (const key of ["Enter", "Escape"])
                box.dispatchEvent(new KeyboardEvent("keydown", { key, ...composing }));
        }"""
    )
    page.wait_for_timeout(60)


def test_words_are_composed_in_every_box(browser: Any) -> None:
    """Enter and Escape of an input method choose or drop a word; the box stays open and nothing is sent."""
    with alone(browser, greeting()) as page:
        page.locator(".ls-segment").nth(1).click()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="mix in another prompt").click()
        boxes = {".ls-formtext": ".ls-formtext", ".ls-parts input": ".ls-formtext", ".ls-formnote": ".ls-formtext"}
        for box, form in boxes.items():
            page.locator(box).first.fill("kitsun")
            compose(page, box)
            assert page.locator(form).is_visible(), box
            assert page.locator(box).first.input_value() == "kitsun"
        page.get_by_role("button", name="Cancel").first.click()

        page.get_by_role("button", name="Edit the quick prompts").click()
        page.get_by_role("textbox", name="Name", exact=True).fill("kitsun")
        compose(page, ".ls-quickrow input")
        assert page.locator(".ls-quickform").is_visible()
        page.locator(".ls-quickform").get_by_role("button", name="Cancel").click()

        page.locator(".ls-down").click()
        page.get_by_role("button", name="Rename take 2").click()
        page.locator("input.ls-treename").fill("kitsun")
        compose(page, "input.ls-treename")
        assert page.locator("input.ls-treename").input_value() == "kitsun"
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")

        page.get_by_role("button", name="Fork", exact=True).click()
        page.get_by_label("Name of the new take").fill("kitsun")
        compose(page, "[aria-label='Name of the new take']")
        assert page.get_by_label("Name of the new take").is_visible()
        page.keyboard.press("Escape")

        page.get_by_role("button", name="More", exact=True).click()
        page.locator(".ls-seed").fill("7")
        compose(page, ".ls-seed")
        assert page.locator(".ls-seed").is_visible() and page.locator(".ls-seed").input_value() == "7"
        assert asked(page, "edit", "quick", "take", "fork", "restart") == []


COPIED = """() => {
    window.copied = [];
    DataTransfer.prototype.setData = (kind, text) => copied.push(text);
}"""


def test_selected_text_is_copied_and_no_prompts(browser: Any) -> None:
    error = {"message": "it broke", "traceback": "where it broke"}
    with alone(browser, greeting(state="error", error=error)) as page:
        page.evaluate(COPIED)
        page.locator(".ls-notice").wait_for()  # Said at once, although this page came after it.
        page.locator(".ls-segment").nth(1).click()
        page.locator(".ls-notice summary").click()
        page.locator(".ls-notice pre").dblclick(position={"x": 14, "y": 12})
        assert page.evaluate("() => String(getSelection()).trim()") == "where"
        page.keyboard.press("Control+c")
        page.keyboard.press("Control+x")
        assert page.evaluate("() => copied") == []
        # A prompt is pressed: it is what is meant now.
        page.locator(".ls-segment").nth(1).click()
        page.keyboard.press("Control+c")
        (copied,) = page.evaluate("() => copied")
        assert "a blue hare sleeps" in copied
        assert operations(page) == []
        page.keyboard.press("Control+x")
        page.wait_for_function("() => model.sent.some((command) => command.type === 'edit')")
        assert operations(page) == [{"op": "remove", "segments": [1], "ripple": True}]


def test_panels_keep_their_keys_from_the_prompts(browser: Any) -> None:
    with alone(browser, greeting(quick=[{"name": "night", "prompt": "a fox at night"}])) as page:
        page.locator(".ls-segment").nth(1).click()
        page.locator(".ls-down").click()
        page.locator("[data-key=choose1]").focus()
        for key in ("Delete", "Backspace", "d", "s", "1", "a", "Control+x", "Control+v"):
            page.keyboard.press(key)
        page.wait_for_timeout(100)
        assert asked(page, "edit", "paste", "switch", "take") == []
        assert not page.get_by_role("dialog", name="Edit a prompt").is_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("Delete")
        page.wait_for_function("() => model.sent.some((command) => command.type === 'edit')")


def test_only_the_view_that_asked_takes_the_focus(browser: Any) -> None:
    with alone(browser, greeting(), places="ab") as page:
        past = {"error": "this changes what was made", "past": {"block": 2, "begun": 5, "choices": ["keep", "fork"]}}
        page.evaluate("(past) => (model.answers.edit = past)", past)
        where = "() => document.activeElement.closest('#a, #b')?.id + ' ' + document.activeElement.className"
        page.locator("#a .ls-segment").nth(1).click()
        page.keyboard.press("<")
        page.locator("#b").get_by_role("alertdialog").wait_for()
        assert page.evaluate(where) == "a ls-choose"
        page.keyboard.press("Escape")
        page.locator("#b").get_by_role("alertdialog").wait_for(state="hidden")
        assert page.evaluate(where).startswith("a ls-segment")

        # Answered in the other view, the focus stays there.
        page.keyboard.press("<")
        page.locator("#b").get_by_role("alertdialog").wait_for()
        page.evaluate("() => (model.answers.edit = {})")
        page.locator("#b").get_by_role("button", name="Keep what was made").click()
        page.locator("#a").get_by_role("alertdialog").wait_for(state="hidden")
        assert page.evaluate(where).startswith("b ")
        assert [command.get("past") for command in asked(page, "edit")] == [None, None, "keep"]


@pytest.mark.parametrize("view", ["studio", "cache", "lab"])
def test_the_notebook_keeps_its_own_keys(browser: Any, view: str) -> None:
    """Its save and find go on in every view, and the keys that a view moves by do not reach its cells."""
    with alone(browser, None if view == "lab" else greeting(), view) as page:
        told = page.evaluate(
            """() => {
                const root = document.querySelector('.ls-studio');
                let kept = null;
                const look = () => (kept = root.hasAttribute('data-lm-suppress-shortcuts'));
                document.addEventListener('keydown', look, true);
                return [['s', true], ['ArrowDown', false], ['f', true], ['z', true]].map(([key, ctrlKey]) => {
                    root.dispatchEvent(new KeyboardEvent('keydown', { key, ctrlKey, bubbles: true }));
                    return kept;
                });
            }"""
        )
        assert told == [False, True, False, True]
