"""The player's own parts in a real JupyterLab: looking back while it is made, takes, loops, full screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.browser.conftest import Notebook
from tests.browser.slow_link import SlowLink
from tests.browser.test_widget import CONTRAST, FRAME, SMALL, beyond, clean, frame, shown, state

SETUP = "from tests.widgets.takes import Forking\nfrom studio.widgets import Studio"
SHOW = "source = Forking(block_s=0.25)\nwidget = Studio(source)\nwidget"
LAST = "Number(document.querySelector('.ls-seek').getAttribute('aria-valuemax'))"
MADE = "print(source.stats.generated_blocks)"


def seek(notebook: Any, share: float) -> None:
    """Drag the playhead to a share of the bar, and let go."""
    box = notebook.page.locator(".ls-seek").bounding_box()
    mouse = notebook.page.mouse
    mouse.move(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    mouse.down()
    for step in range(1, 6):
        mouse.move(box["x"] + (0.9 + (share - 0.9) * step / 5) * box["width"], box["y"] + box["height"] / 2)
        notebook.page.wait_for_timeout(40)
    mouse.up()


def test_looking_back_while_it_is_made(lab: Any, open_notebook: Any) -> None:
    lab.add("scrub.ipynb", [SETUP, SHOW])
    notebook = open_notebook("scrub.ipynb")
    page = notebook.page
    notebook.run_all()
    beyond(notebook, 60)

    # Dragging shows the past, and playing goes on from there; nothing that was made is lost.
    made = int(notebook.execute(MADE))
    seek(notebook, 0.1)
    notebook.until(f"() => {FRAME} < {LAST} / 2", "a frame of the beginning")
    state(notebook, "replay")
    at = frame(notebook)
    beyond(notebook, at + 5)
    assert int(notebook.execute(MADE)) >= made
    page.get_by_role("button", name="live", exact=True).click()
    beyond(notebook, 60)
    notebook.until("() => !document.querySelector('.ls-golive').checkVisibility()", "the newest frame")

    # A page that comes later gets the past as well, as it asks for it.
    notebook.command("docmanager:save", wait=True)
    page.reload(wait_until="domcontentloaded")
    notebook.wait_idle()
    beyond(notebook, 60)
    page.locator(".ls-studio").focus()
    page.keyboard.press("Space")
    state(notebook, "paused")
    page.keyboard.press("Home")
    notebook.until(f"() => {FRAME} === 0", "the first frame")
    at = shown(notebook)
    page.keyboard.press(".")
    page.keyboard.press(".")
    notebook.until(f"() => {FRAME} === {at + 2}", "two frames on")
    page.keyboard.press("Shift+ArrowLeft")
    notebook.until(f"() => {FRAME} === {at + 1}", "one frame back")

    # A range over and over, slower and faster.
    page.keyboard.press("l")
    state(notebook, "paused")
    page.keyboard.press("]")
    page.keyboard.press("Space")
    state(notebook, "looping")
    seen = {frame(notebook) for _ in range(40) if page.wait_for_timeout(30) is None}
    block = [
        int(notebook.execute(f"print(source.timeline.start_frame(source.timeline.clock.block_at({at + 1}) + {i}))"))
        for i in (0, 1)
    ]
    assert min(seen) >= block[0] and max(seen) < block[1] and len(seen) > 4
    assert page.locator(".ls-tempo").input_value() == "2"
    page.keyboard.press("l")
    page.keyboard.press("[")
    page.keyboard.press("End")
    notebook.until(f"() => {FRAME} > 60", "the newest frame")
    clean(notebook)
    assert notebook.execute("print(widget.errors)") == "[]"


def test_takes_in_the_browser(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("takes.ipynb", [SETUP, SHOW])
    notebook = open_notebook("takes.ipynb")
    page = notebook.page
    notebook.run_all()
    beyond(notebook, 50)
    page.locator(".ls-studio").focus()
    page.keyboard.press("Space")
    state(notebook, "paused")
    seek(notebook, 0.5)
    notebook.until(f"() => {FRAME} < 0.75 * {LAST}", "the middle")
    at = int(notebook.execute(f"print(source.timeline.clock.block_at({shown(notebook)}))"))

    # A fork from the block that is shown.
    page.get_by_role("button", name="Fork", exact=True).click()
    page.get_by_label("Prompt from there on").fill("the blue fox jumps at night")
    page.get_by_label("Seed from there on").fill("never")
    page.get_by_role("button", name="Fork here").click()
    page.get_by_text("the seed must be a whole number from 0 up").first.wait_for()
    page.get_by_label("Seed from there on").fill("11")
    page.get_by_label("Name of the new take").fill("night")
    page.screenshot(path=screenshots / "player-fork.png")
    page.get_by_role("button", name="Fork here").click()
    notebook.until("() => document.querySelector('.ls-down').textContent === 'night'", "the new take")
    first = int(notebook.execute(f"print(source.timeline.start_frame({at}))"))
    beyond(notebook, first)
    expected = f"1 night 0 {at} 11"
    assert (
        notebook.execute("t = list(source.takes)[1]; print(t.number, t.name, t.parent, t.forked_at, t.seed)")
        == expected
    )
    assert "night" in page.locator(".ls-caption").inner_text()

    # Side by side with the take it came from.
    page.locator(".ls-down").click()
    page.screenshot(path=screenshots / "player-takes.png")
    page.get_by_role("button", name="Compare with take 1").click()
    page.keyboard.press("Escape")
    page.locator(".ls-divider").wait_for()
    # At the first frame of its own that the new take shows, the other take had been made long before.
    page.locator(".ls-studio").focus()
    page.keyboard.press("Space")
    state(notebook, "paused")
    page.locator(".ls-seek").focus()
    page.keyboard.press("Home")
    for _ in range(at):
        page.keyboard.press("PageUp")
    assert shown(notebook) == first
    differs = """() => {
        const [a, b] = ['.ls-picture', '.ls-rival'].map((name) => {
            const canvas = document.querySelector(name);
            return canvas.getContext('2d').getImageData(canvas.width / 2, 8, 1, 1).data.join();
        });
        return a !== b && !document.querySelector('.ls-sideover').checkVisibility();
    }"""
    notebook.until(differs, "two pictures")
    page.locator(".ls-divider").focus()
    before = page.locator(".ls-divider").get_attribute("aria-valuenow")
    page.keyboard.press("PageUp")
    assert int(page.locator(".ls-divider").get_attribute("aria-valuenow")) == int(before) + 10
    page.screenshot(path=screenshots / "player-compare.png")
    page.get_by_role("button", name="End A|B").click()

    # Back to the first take, another name for it, and the other one removed.
    page.locator(".ls-down").click()
    page.get_by_role("button", name="take 1").first.click()
    notebook.until("() => document.querySelector('.ls-down').textContent === 'take 1'", "the first take")
    page.get_by_role("button", name="Rename take 1").click()
    page.get_by_label("Name of the take").fill("day")
    page.keyboard.press("Enter")
    notebook.until("() => document.querySelector('.ls-down').textContent === 'day'", "its name")
    page.get_by_role("button", name="Remove night").click()
    notebook.until("() => document.querySelectorAll('.ls-tree li').length === 1", "the end of the other")
    page.keyboard.press("Escape")
    assert page.evaluate("() => document.querySelector('.ls-caption').textContent").startswith("a red ball")
    page.locator(".ls-studio").focus()
    page.keyboard.press("End")
    beyond(notebook, 60)
    clean(notebook)
    assert notebook.execute("print(widget.errors, source.run.name)") == "[] day"


def test_full_screen_and_looks(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("full.ipynb", [SETUP, SHOW])
    notebook = open_notebook("full.ipynb")
    page = notebook.page
    notebook.run_all()
    beyond(notebook, 40)
    notebook.execute("source.switch('the blue fox jumps at night')")
    beyond(notebook, 90)
    page.locator(".ls-studio").focus()
    page.keyboard.press("f")
    notebook.until("() => document.fullscreenElement?.classList.contains('ls-player')", "the full screen")
    notebook.settled()
    page.screenshot(path=screenshots / "player-full.png")
    size = page.evaluate(
        "() => { const c = document.querySelector('.ls-picture'); return [c.clientWidth, c.clientHeight]; }"
    )
    assert size[0] == size[1] > 700
    page.keyboard.press("f")
    notebook.until("() => document.fullscreenElement === null", "the page again")
    notebook.execute("source.fork(3, prompt='the green ball sleeps by the sea', name='sea')")
    beyond(notebook, 60)
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        notebook.theme(theme)
        for width in (700, 1000, 1600):
            notebook.execute(f"widget.width = {width}")
            page.set_viewport_size({"width": width + 190, "height": 1100})
            notebook.settled()
            page.locator(".ls-down").click()
            assert page.evaluate(CONTRAST) == [], (theme, width)
            assert page.evaluate(SMALL) == []
            overflow = "() => { const s = document.querySelector('.ls-studio'); return s.scrollWidth - s.clientWidth; }"
            assert page.evaluate(overflow) <= 0
            page.locator(".ls-studio").screenshot(path=screenshots / f"player-{theme.split()[-1].lower()}-{width}.png")
            page.keyboard.press("Escape")
    clean(notebook)


REAL = """import torch
torch.set_num_threads(1)
from studio.live import Session
from studio.timeline import Timeline
from studio.widgets import Studio
from tests.live.doubles import tiny_models
source = Session(tiny_models(), timeline=Timeline.of('a red fox runs'))
widget = Studio(source, inspect=False)"""

DROP = """async (names) => {
    const canvas = new OffscreenCanvas(64, 48);
    const context = canvas.getContext('2d');
    context.fillStyle = '#20c040';
    context.fillRect(0, 0, 64, 48);
    const data = new DataTransfer();
    const picture = await canvas.convertToBlob({ type: 'image/png' });
    data.items.add(names === 'text' ? new File(['words'], 'notes.txt', { type: 'text/plain' }) : new File([picture], 'green.png', { type: 'image/png' }));
    const stage = document.querySelector('.ls-stage');
    stage.dispatchEvent(new DragEvent('dragenter', { dataTransfer: data, bubbles: true, cancelable: true }));
    window.covered = document.querySelector('.ls-drop').checkVisibility();
    stage.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
}"""  # noqa: E501


def test_a_file_on_the_player_and_an_export(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("files.ipynb", [REAL, "widget"])
    notebook = open_notebook("files.ipynb")
    page = notebook.page
    notebook.run_all()
    beyond(notebook, 20)
    page.evaluate(DROP, "text")
    page.get_by_text("“notes.txt” is no image or clip").first.wait_for()
    page.evaluate(DROP, "picture")
    assert page.evaluate("() => window.covered")
    notebook.until("() => document.querySelector('.ls-down').textContent === 'take 2'", "the take of the picture")
    assert notebook.execute(
        "print(source.take, source.log[0].given is not None, source.timeline.segments[0].prompt)"
    ) == ("1 True a red fox runs")
    beyond(notebook, 12)
    notebook.until("() => !document.querySelector('.ls-drop').checkVisibility()", "the picture without a cover")

    # An export while it plays; the file is there under its name when it is complete.
    page.get_by_role("button", name="Export", exact=True).click()
    page.get_by_label("Format").select_option("gif")
    assert page.get_by_label("Name of the file").input_value() == "a_red_fox_runs.gif"
    page.screenshot(path=screenshots / "player-export.png")
    page.get_by_role("dialog", name="Export").get_by_role("button", name="Export").click()
    page.get_by_text("written: a_red_fox_runs.gif").wait_for(timeout=120_000)
    assert (lab.folder / "a_red_fox_runs.gif").read_bytes()[:6] == b"GIF89a"
    page.get_by_role("dialog", name="Export").get_by_role("button", name="Export").click()
    page.get_by_text("exists; name another file").first.wait_for()
    told = notebook.execute(
        "from studio.live import read_log, replay\n"
        "log = read_log('a_red_fox_runs.gif')\n"
        "print(len(log) > 0, list(log) == list(source.log)[:len(log)])"
    )
    assert told == "True True"
    at = frame(notebook)
    beyond(notebook, at + 3)
    clean(notebook)
    assert notebook.execute("print(widget.errors, source.error)") == "[] None"


SLOW = """from tests.browser.recording import Recording
from studio.widgets import Studio
source = Recording((240, 416), 16)
widget = Studio(source, inspect=False)
widget"""


def test_a_slow_link(browser: Any, lab: Any, screenshots: Path) -> None:
    link = SlowLink(int(lab.url.rsplit(":", 1)[1]))
    lab.add("slow.ipynb", [SLOW])
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    notebook = Notebook(page=context.new_page(), url=f"http://127.0.0.1:{link.port}/doc/tree/slow.ipynb?reset")
    notebook.watch()
    page = notebook.page
    try:
        notebook.open()
        notebook.run_all()
        beyond(notebook, 30)
        # 1.5 Mbit/s and 40 ms there and back: less than half of what the best pictures take.
        link.bits_s, link.delay_s = 1.5e6, 0.02
        page.get_by_text("slow link, picture quality").wait_for(timeout=120_000)
        page.screenshot(path=screenshots / "player-slow.png")
        at = frame(notebook)
        beyond(notebook, at + 60)
        assert int(notebook.execute("print(widget._relay.outbox.in_flight)")) <= 2
        # What is typed gets through between the pictures.
        page.locator(".ls-compose textarea").fill("the blue fox jumps")
        page.keyboard.press("Enter")
        notebook.until("() => document.querySelectorAll('.ls-segment').length === 2", "the switch")
        # The link mends, and so do the pictures.
        link.bits_s, link.delay_s = None, 0.0
        page.get_by_text("slow link, picture quality").wait_for(state="hidden", timeout=180_000)
        clean(notebook)
        assert notebook.execute("print(widget.errors)") == "[]"
    finally:
        context.close()
        link.close()
