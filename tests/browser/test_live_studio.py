"""Notebook 01 in a real JupyterLab: the miniature plays, a prompt is typed, and the picture follows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
NOTEBOOK = REPOSITORY / "notebooks" / "01_live_studio.ipynb"
PROMPT = "the red fox dances in the desert"
DIFFERENT_FRAMES = 48

# Looks at the canvas itself on every refresh of the screen: what is on it, not what was sent.
WATCH = """() => {
    const seen = new Map();
    window.studioSeen = seen;
    const small = document.createElement('canvas');
    small.width = small.height = 24;
    const context = small.getContext('2d', { willReadFrequently: true });
    const look = () => {
        const canvas = document.querySelector('.ls-picture');
        if (canvas?.dataset.frame !== undefined && !seen.has(Number(canvas.dataset.frame))) {
            context.drawImage(canvas, 0, 0, 24, 24);
            const pixels = context.getImageData(0, 0, 24, 24).data;
            const caption = document.querySelector('.ls-caption').textContent;
            seen.set(Number(canvas.dataset.frame), { pixels: pixels.join(), caption });
        }
        requestAnimationFrame(look);
    };
    look();
}"""
SEEN = "() => new Set([...window.studioSeen.values()].map((frame) => frame.pixels)).size"
FIRST_UNDER = """(prompt) => {
    const frames = [...window.studioSeen].filter(([, frame]) => frame.caption === prompt).map(([number]) => number);
    return frames.length ? Math.min(...frames) : -1;
}"""


def test_the_live_notebook(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    shutil.copy(NOTEBOOK, lab.folder)
    notebook = open_notebook(NOTEBOOK.name, width=1370, height=1200)
    page = notebook.page
    notebook.run_all()
    page.evaluate(WATCH)
    notebook.until(f"() => ({SEEN})() >= {DIFFERENT_FRAMES}", f"{DIFFERENT_FRAMES} different frames", 180)
    notebook.until("() => !document.body.textContent.includes('[*]:')", "the end of the last cell", 180)
    assert (
        page.locator(".jp-OutputArea-output[data-mime-type*='stderr'], .jp-RenderedText pre .ansi-red-fg").count() == 0
    )

    box = page.locator(".ls-compose textarea")
    box.scroll_into_view_if_needed()
    box.fill(PROMPT)
    box.press("Enter")
    told = page.get_by_text("switching at").first
    told.wait_for()
    block = int(told.inner_text().split("block ")[1].rstrip(")"))
    assert notebook.execute(f"print(session.timeline.segment_at({block}).prompt)") == PROMPT
    page.wait_for_function(f"(prompt) => ({FIRST_UNDER})(prompt) >= 0", arg=PROMPT, timeout=180_000, polling=50)

    # The first frame under the new prompt is the first one of the block that Python made under it.
    first = page.evaluate(FIRST_UNDER, PROMPT)
    effective = int(notebook.execute(f"print(session.timeline.start_frame({block}))"))
    assert effective <= first <= effective + 2  # the screen may skip a frame on a busy machine
    made = notebook.execute(f"print(next(record.block for record in session.log if record.prompt == {PROMPT!r}))")
    assert int(made) == block

    page.screenshot(path=screenshots / "live-studio-page.png")
    for theme in ("light", "dark"):
        notebook.theme(f"JupyterLab {theme.capitalize()}")
        page.locator(".ls-studio").screenshot(path=screenshots / f"studio-{theme}.png")
    assert notebook.execute("print(player.errors, session.error)") == "[] None"
    assert notebook.errors == []
    assert notebook.foreign == []
