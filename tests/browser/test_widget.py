"""The widget in a real JupyterLab, on a source that needs no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SETUP = "from tests.widgets.double import Double\nfrom studio.widgets import Studio"
SHOW = "source = Double(block_s=0.2)\nwidget = Studio(source)\nwidget"
BOX = ".ls-compose textarea"
FRAME = "Number(document.querySelector('.ls-picture')?.dataset.frame ?? -1)"
STATE = "document.querySelector('.ls-badge span:last-child')?.textContent"

HIDE = """(hidden) => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
}"""


def frame(notebook: Any, view: int = 0) -> int:
    return notebook.page.evaluate(f"Number(document.querySelectorAll('.ls-picture')[{view}].dataset.frame)")


def shown(notebook: Any) -> int:
    """The frame at which the playhead is, as soon as it is the one that is seen."""
    at = "Number(document.querySelector('.ls-seek').getAttribute('aria-valuenow'))"
    notebook.until(f"() => {FRAME} === {at}", "the frame at the playhead")
    return frame(notebook)


def beyond(notebook: Any, number: int, timeout_s: float = 90) -> None:
    notebook.until(f"() => {FRAME} > {number}", f"a frame after {number}", timeout_s)


def state(notebook: Any, label: str, timeout_s: float = 60) -> None:
    notebook.until(f"() => {STATE} === '{label}'", f"the state “{label}”", timeout_s)


def clean(notebook: Any) -> None:
    assert notebook.errors == []
    assert notebook.foreign == []


def test_steering(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("steer.ipynb", [SETUP, SHOW])
    notebook = open_notebook("steer.ipynb")
    notebook.run_all()
    beyond(notebook, 12)
    page = notebook.page

    # Markup is shown, not executed, and words that are not known are marked while typing.
    box = page.locator(BOX)
    box.fill("a red <img src=x onerror=alert(1)> foxx 🦊")
    marked = page.locator(".ls-mirror u")
    marked.first.wait_for()
    assert "foxx" in marked.all_text_contents()
    page.get_by_role("button", name="fox", exact=True).click()
    assert box.input_value() == "a red <img src=x onerror=alert(1)> fox 🦊"
    box.press("Enter")
    notebook.until("() => document.querySelectorAll('.ls-segment').length === 2", "a second segment")
    assert page.locator(".ls-segment").nth(1).inner_text() == "a red <img src=x onerror=alert(1)> fox 🦊"
    assert page.locator(".ls-studio img").count() == 0
    block = int(notebook.execute("print(widget.timeline.segments[1].start)"))
    notebook.until(
        "() => document.querySelector('.ls-caption').textContent.includes('onerror')", "the new prompt on the picture"
    )
    assert frame(notebook) >= int(notebook.execute(f"print(widget.timeline.start_frame({block}))"))
    assert page.locator(".ls-mark").count() == 1

    # A prompt that makes no sense gets one sentence, and the video goes on.
    box.fill("x" * 2500)
    box.press("Enter")
    page.get_by_text("at most 2000 characters").first.wait_for()
    box.press("Escape")
    before = frame(notebook)
    beyond(notebook, before + 4)
    page.locator(".ls-studio").focus()
    page.keyboard.press("Space")
    state(notebook, "paused")  # What is made stays far before what is edited.

    # Python edits, the page follows; the page edits, Python follows.
    notebook.execute("widget.append('the blue ball sleeps', widget.timeline.segments[-1].start + 30)")
    notebook.until("() => document.querySelectorAll('.ls-segment').length === 3", "a third segment")
    page.locator(".ls-segment").nth(2).dblclick()
    page.keyboard.type("the green ball sleeps")
    page.keyboard.press("Enter")
    notebook.until(
        "() => document.querySelectorAll('.ls-segment')[2].textContent === 'the green ball sleeps'",
        "the edited segment",
    )
    assert notebook.execute("print(widget.timeline.segments[2].prompt)") == "the green ball sleeps"
    page.locator(".ls-segment").nth(2).dblclick()
    page.get_by_role("button", name="Remove", exact=True).click()
    notebook.until("() => document.querySelectorAll('.ls-segment').length === 2", "its removal")
    page.locator(".ls-add").click()
    page.keyboard.type("a fox runs at night")
    page.screenshot(path=screenshots / "widget-editor.png")
    page.keyboard.press("Enter")
    notebook.until("() => document.querySelectorAll('.ls-segment').length === 3", "an added segment")
    clean(notebook)


def test_keys(lab: Any, open_notebook: Any) -> None:
    lab.add("keys.ipynb", [SETUP, SHOW])
    notebook = open_notebook("keys.ipynb")
    notebook.run_all()
    beyond(notebook, 30)
    page = notebook.page
    page.locator(".ls-studio").focus()
    page.keyboard.press("Space")
    state(notebook, "paused")
    at = shown(notebook)
    page.wait_for_timeout(500)
    assert frame(notebook) == at
    notebook.until_told("print(source.state)", "paused")

    # Back to the start of the block; on by whole blocks, at the end by generating one.
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    starts = [0, *range(9, 4000, 12)]
    back = shown(notebook)
    assert back in starts
    assert back < at
    made = int(notebook.execute("print(source.stats.generated_blocks)"))
    for _ in range(30):
        before = frame(notebook)
        page.keyboard.press("ArrowRight")
        notebook.until(f"() => {FRAME} > {before} && {STATE} === 'paused'", "a step")
        assert frame(notebook) + 1 in starts
        if int(notebook.execute("print(source.stats.generated_blocks)")) > made:
            break
    assert int(notebook.execute("print(source.stats.generated_blocks)")) == made + 1

    # Keys in the prompt box are text, and none of them is a command of the notebook.
    page.keyboard.press("/")
    page.keyboard.press("Control+a")
    page.keyboard.type("dd aa bb ?0 x")
    assert page.locator(BOX).input_value() == "dd aa bb ?0 x"
    page.keyboard.press("Escape")
    for key in "bxzjkv":
        page.keyboard.press(key)
    assert page.locator(".jp-Notebook .jp-Cell").count() == 2
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog", name="Keys").is_visible()
    page.keyboard.press("Space")
    beyond(notebook, frame(notebook) + 5)

    # A page that nobody sees stands still, and generation waits for it.
    page.evaluate(HIDE, True)
    notebook.until_told("print(source.state)", "waiting")
    at, made = shown(notebook), notebook.execute("print(source.stats.generated_blocks)")
    page.wait_for_timeout(1500)
    assert frame(notebook) == at
    assert notebook.execute("print(source.stats.generated_blocks)") == made
    page.evaluate(HIDE, False)
    beyond(notebook, at + 20)

    # The notebook keeps its own keys: Ctrl-S saves it.
    page.locator(".ls-studio").focus()
    dirty = "() => window.jupyterapp.shell.currentWidget.context.model.dirty"
    notebook.until(dirty, "unsaved outputs")
    page.keyboard.press("Control+s")
    notebook.until(f"() => !({dirty})()", "saving")

    # A new seed starts again.
    page.get_by_role("button", name="More").click()
    seed = page.locator(".ls-seed")
    seed.fill("12")
    seed.press("Enter")
    notebook.until(f"() => {FRAME} >= 0 && {FRAME} < 30", "the beginning")
    assert notebook.execute("print(source.seed, source.take)") == "12 1"
    clean(notebook)


def test_reload_and_restart(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("reload.ipynb", [SETUP, SHOW])
    notebook = open_notebook("reload.ipynb")
    notebook.run_all()
    beyond(notebook, 60)
    page = notebook.page
    notebook.command("docmanager:save", wait=True)
    at = frame(notebook)
    page.reload(wait_until="domcontentloaded")
    notebook.wait_idle()
    beyond(notebook, at + 10)
    assert notebook.execute("print(source.take, len(source.consumers))") == "0 1"
    saved = (lab.folder / "reload.ipynb").read_text()
    assert "widget-state" not in saved
    # Pictures for readers without a kernel; the live widget hides them.
    assert "data:image/webp;base64" in saved
    assert "data:image/jpeg;base64" in saved
    assert page.locator(".ls-still").count() == 1
    assert not page.locator(".ls-still").is_visible()

    # The cell again: one page, one consumer, one thread each of the new pair.
    notebook.execute("old = source; closed = widget")
    notebook.run_all()
    notebook.until(f"() => {FRAME} >= 0 && {FRAME} < 40", "the new video")
    beyond(notebook, 40)
    assert notebook.execute("print(closed, old.consumers, old.listeners)") == "Studio(closed) [] []"
    threads = "import threading; print(sum(t.name == 'studio-widget-sender' for t in threading.enumerate()))"
    assert notebook.execute(threads) == "1"
    assert page.locator(".ls-studio").count() == 1

    # An error of the generator: a sentence, its traceback behind a click, and on.
    notebook.execute("source.fail_at = source.stats.generated_blocks + 1")
    page.get_by_text("the ball rolled off the table").first.wait_for()
    page.locator(".ls-notice summary").click()
    page.get_by_text("Traceback (most recent call last)").wait_for()
    page.screenshot(path=screenshots / "widget-error.png")
    page.get_by_role("button", name="Go on").click()
    beyond(notebook, frame(notebook) + 15)
    clean(notebook)

    # A kernel that was restarted knows nothing of the widget any more.
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    page.get_by_text("The kernel was restarted: run the cell again.").wait_for(timeout=60_000)
    page.screenshot(path=screenshots / "widget-restarted.png")
    notebook.wait_idle()
    notebook.run_all()
    notebook.until(f"() => {FRAME} >= 0 && {STATE}.startsWith('live')", "the video after a restart")


def test_two_studios_and_a_busy_kernel(lab: Any, open_notebook: Any) -> None:
    two = "a, b = Double('a red ball', block_s=0.3), Double('a blue fox', block_s=0.3)"
    enough = lab.folder / "enough"
    busy = "from pathlib import Path\nwhile not Path('enough').exists():\n    sum(range(1000))"
    lab.add("two.ipynb", [SETUP, two, "first = Studio(a)\nfirst", "second = Studio(b)\nsecond", busy])
    notebook = open_notebook("two.ipynb", height=2000)
    page = notebook.page
    notebook.run_all()
    notebook.until("() => document.querySelectorAll('.ls-picture').length === 2", "two players")
    for view in (0, 1):
        notebook.until(f"() => Number(document.querySelectorAll('.ls-picture')[{view}].dataset.frame) > 9", "frames")

    # The last cell keeps the kernel busy: the prompt reaches Python all the same.
    assert notebook.running
    box = page.locator(BOX).nth(1)
    box.fill("the green ball jumps")
    box.press("Enter")
    notebook.until(
        "() => document.querySelectorAll('.ls-studio')[1].querySelectorAll('.ls-segment').length === 2", "the switch"
    )
    assert notebook.running
    enough.touch()
    notebook.until("() => !document.body.textContent.includes('[*]:')", "the end of the last cell")
    assert notebook.execute("print(len(a.timeline.segments), len(b.timeline.segments))") == "1 2"

    # A front end that cannot reach a busy kernel says so, until the cell ends.
    enough.unlink()
    page.evaluate(
        "() => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.commsOverSubshells = 'disabled'; }"
    )
    page.locator(".jp-CodeCell .cm-content").nth(4).click()
    notebook.command("notebook:run-cell")
    said = page.get_by_text("The kernel is busy with a cell, and this front end cannot reach it meanwhile.").first
    said.wait_for(timeout=60_000)
    assert notebook.running
    enough.touch()
    said.wait_for(state="hidden", timeout=60_000)

    # Closing one leaves the other alone.
    notebook.execute("first.close()")
    notebook.until("() => document.querySelectorAll('.ls-studio').length === 1", "the first one's end")
    at = frame(notebook)
    beyond(notebook, at + 10)
    assert notebook.execute("print(a.consumers, len(b.consumers), first.errors, second.errors)") == "[] 1 [] []"
    clean(notebook)


CONTRAST = """() => {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 1;
    const context = canvas.getContext('2d', { willReadFrequently: true });
    const rgba = (css) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = css;
        context.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
    const ground = (element) => {
        const layers = [];
        for (let at = element; at; at = at.parentElement) {
            layers.push(rgba(getComputedStyle(at).backgroundColor));
            if (layers.at(-1)[3] > 0.99) break;
        }
        return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const poor = [];
    for (const element of document.querySelectorAll('.ls-studio *')) {
        const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join('');
        const typed = element.matches('input, textarea, select') ? element.value : '';
        const unseen = !element.checkVisibility() || element.closest('.ls-mirror, .ls-spoken, :disabled');
        if (unseen || !(text || typed)) continue;
        const under = ground(element.matches('.ls-prompt textarea') ? element.parentElement : element);
        const ink = over(rgba(getComputedStyle(element).color), under);
        const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${element.className || element.tagName}: ${text || typed}`);
    }
    return poor;
}"""

SMALL = """() => [...document.querySelectorAll('.ls-studio :is(button, input, select, textarea)')]
    .filter((element) => element.checkVisibility() && !element.matches('.ls-segment'))
    .map((element) => [element.getAttribute('aria-label') ?? element.textContent, element.getBoundingClientRect()])
    .filter(([, box]) => box.width < 28 || box.height < 28)
    .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)"""

THEMES = ("JupyterLab Light", "JupyterLab Dark", "JupyterLab Dark High Contrast")


def test_themes_and_widths(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("themes.ipynb", [SETUP, SHOW])
    notebook = open_notebook("themes.ipynb")
    notebook.run_all()
    beyond(notebook, 30)
    page = notebook.page
    page.locator(BOX).fill("the blue fox jumpz in the forest")
    page.locator(".ls-mirror u").first.wait_for()
    notebook.execute("widget.switch('the green fox sleeps by the sea')")
    notebook.execute("widget.append('a blue ball rolls', widget.timeline.segments[-1].start + 40)")
    for theme in THEMES:
        notebook.theme(theme)
        assert page.evaluate(CONTRAST) == [], theme
        assert page.evaluate(SMALL) == []
        page.screenshot(path=screenshots / f"widget-{theme.split(' ', 1)[1].lower().replace(' ', '-')}.png")
    sizes = {}
    for width in (700, 1180, 1600):
        notebook.execute(f"widget.width = {width}")
        page.set_viewport_size({"width": width + 190, "height": 1100})
        notebook.until(
            f"() => Math.abs(document.querySelector('.ls-studio').getBoundingClientRect().width - {width}) < 2",
            "its width",
        )
        notebook.settled()
        time_top, compose_top = (page.locator(f".ls-{name}").bounding_box()["y"] for name in ("timeline", "compose"))
        assert (time_top > compose_top) == (width == 700)  # in one column the prompt box comes right under the picture
        overflow = "() => { const s = document.querySelector('.ls-studio'); return s.scrollWidth - s.clientWidth; }"
        assert page.evaluate(overflow) <= 0
        sizes[width] = page.evaluate(
            "() => { const c = document.querySelector('.ls-picture'); return [c.clientWidth, c.clientHeight]; }"
        )
        page.locator(".ls-studio").screenshot(path=screenshots / f"widget-{width}.png")
    assert all(wide == high > 250 for wide, high in sizes.values())
    clean(notebook)


def test_a_video_with_an_end(lab: Any, open_notebook: Any) -> None:
    story = "source = Double(block_s=0.1)\nsource.timeline = source.timeline.with_length(3)"
    lab.add("end.ipynb", [SETUP, story, "widget = Studio(source)\nwidget"])
    notebook = open_notebook("end.ipynb")
    page = notebook.page
    notebook.run_all()
    state(notebook, "finished", 60)
    assert shown(notebook) == int(notebook.execute("print(source.timeline.start_frame(3) - 1)"))
    assert page.get_by_role("button", name="Switch").is_disabled()
    page.locator(".ls-toggle").click()  # once more from its beginning
    state(notebook, "playing")
    state(notebook, "finished")
    page.locator(".ls-add").click()
    page.keyboard.type("the blue fox sleeps")
    page.keyboard.press("Enter")
    notebook.until("() => document.querySelectorAll('.ls-segment').length === 2", "the added segment")
    page.locator(".ls-toggle").click()
    beyond(notebook, frame(notebook) + 5)
    clean(notebook)

    # What goes wrong in the page is told in Python, and the page goes on.
    bad = {
        "type": "block",
        "serial": 0,
        "take": 0,
        "index": 99,
        "first": 0,
        "end": 1,
        "sizes": [1],
        "prompt": "",
        "switch": None,
    }
    notebook.execute(f"widget.send({bad!r})")
    notebook.until_told(
        "print(widget.errors[-1:] and widget.errors[-1].splitlines()[0])", "block 99 came without its frames"
    )
    beyond(notebook, frame(notebook) + 5)
