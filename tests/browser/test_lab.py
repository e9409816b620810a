"""The recache lab in a real JupyterLab, over tiny networks: films in step, and all follow a change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SETUP = """
from studio.live.lab import Lab, LabSettings
from studio.model.text import WordTokenizer
from studio.widgets import RecacheLab
from tests.live.doubles import WORDS, tiny_models
models = tiny_models(window=9)
models.text.tokenizer = WordTokenizer(WORDS)
settings = LabSettings(
    first='a red fox runs', then='the blue rabbit jumps', at=5, blocks=8,
    policies=('clear', 'keep', ('recache', 'keep'), ('recache', 'rewrite')),
)
lab = Lab(models, settings, judge=lambda frames, texts: [0.3 + 0.1 * len(text) / 10 for text in texts])
"""
SHOW = "view = RecacheLab(lab)\nview"
# What every canvas shows at each refresh of the screen.
WATCH = """() => {
    window.labFrames = [];
    const look = () => {
        window.labFrames.push([...document.querySelectorAll('.ls-labfilm')].map((film) => film.dataset.frame));
        requestAnimationFrame(look);
    };
    look();
}"""
STRIPS = """() => [...document.querySelectorAll('.ls-ministrip')].map((strip) => [...strip.children].map((cell) => [
    cell.dataset.frame, cell.dataset.role, cell.dataset.prompt, cell.dataset.written]))"""
TABLE = """() => [...document.querySelectorAll('.ls-labtable tbody tr')].map((row) =>
    [row.querySelector('th').textContent, ...[...row.querySelectorAll('td')].map((cell) => cell.textContent)])"""


def ready(notebook: Any) -> None:
    notebook.execute("lab.wait(120)")
    notebook.until(
        """() => document.querySelector('.ls-lab')?.dataset.state === 'ready'
            && [...document.querySelectorAll('.ls-labtable td[data-column="last block"]')]
                .every((cell) => cell.textContent !== '–')""",
        "the lab is ready",
    )


def seek(notebook: Any, frame: int) -> None:
    notebook.page.evaluate(
        """(frame) => {
            const scrub = document.querySelector('.ls-labtransport .ls-scrub');
            scrub.value = frame;
            scrub.dispatchEvent(new Event('input'));
        }""",
        frame,
    )
    notebook.until(
        f"() => [...document.querySelectorAll('.ls-labfilm')].every((film) => film.dataset.frame === '{frame}')",
        f"frame {frame} in all films",
    )


def test_films_run_in_step_and_all_follow_a_change(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("lab.ipynb", [SETUP, SHOW])
    notebook = open_notebook("lab.ipynb", width=1280, height=1400)
    page = notebook.page
    notebook.run_all()
    page.locator(".ls-run").nth(3).wait_for(timeout=60_000)
    ready(notebook)
    page.evaluate(WATCH)
    page.wait_for_timeout(3000)
    frames = page.evaluate("() => window.labFrames")
    assert all(len(set(shown)) == 1 for shown in frames), "the films are in step"
    assert len({shown[0] for shown in frames}) > 10, "they run"

    # What stands there is what was measured.
    truth = eval(
        notebook.execute(
            "print([[[str(s.frame), s.role, str(s.prompt), s.written] for s in run.blocks[5].reading.slots "
            "if s.frame is not None] for run in lab.runs])"
        )
    )
    seek(notebook, int(notebook.execute("print(lab.units.first_frame(5))")))
    shown = [[cell for cell in strip if cell[0] != ""] for strip in page.evaluate(STRIPS)]
    assert shown == truth
    table = eval(notebook.execute("print([[str(value) for value in row.values()] for row in lab.table()])"))
    for row, wanted in zip(page.evaluate(TABLE), table, strict=True):
        assert row[0] == wanted[0]
        for cell, value in zip(row[1:7], map(float, wanted[1:7]), strict=True):
            assert cell == ("–" if value != value else f"{value:.2f}")

    # The same frame is pointed at in every strip.
    frame = truth[1][0][0]
    page.locator(".ls-ministrip").nth(1).locator(f".ls-mini[data-frame='{frame}']").hover()
    holding = sum(any(slot[0] == frame for slot in run) for run in truth)
    assert holding == page.locator(f".ls-mini[data-frame='{frame}'][data-on='true']").count() > 1
    assert f"latent frame {frame}" in page.locator(".ls-labfilms .ls-detail").inner_text()

    # Another prompt, another switch.
    page.get_by_label("Second prompt").fill("the blue fox runs")
    page.get_by_label("Second prompt").press("Enter")
    notebook.until("() => document.querySelector('.ls-lab').dataset.state === 'making'", "it is made anew", 10)
    ready(notebook)
    assert notebook.execute("print(lab.settings.then, lab.version)") == "the blue fox runs 2"
    page.get_by_label("Block of the switch").focus()
    page.keyboard.press("ArrowLeft")
    notebook.until("() => document.querySelector('.ls-lab').dataset.state === 'making'", "it is made anew", 10)
    ready(notebook)
    assert notebook.execute("print(lab.settings.at)") == "4"
    seek(notebook, int(notebook.execute("print(lab.units.first_frame(4))")))
    prompts = [{cell[2] for cell in strip if cell[0] != ""} for strip in page.evaluate(STRIPS)]
    assert prompts == [{"1"}, {"0", "1"}, {"1"}, {"1"}]  # nothing had rolled yet, so that all is recached

    # A policy less, and what makes no sense.
    page.locator(".ls-runchip[data-name='clear']").click()
    page.locator(".ls-run").nth(3).wait_for(state="detached", timeout=10_000)
    ready(notebook)
    assert [row[0] for row in page.evaluate(TABLE)] == ["keep", "recache, sink: keep", "recache, sink: rewrite"]
    page.get_by_label("First prompt").fill("")
    page.get_by_label("First prompt").press("Enter")
    notebook.until("() => document.querySelector('.ls-labnote.ls-warn')", "it says why not", 10)
    assert notebook.execute("print(lab.settings.first)") == "a red fox runs"

    for width in (700, 1000, 1600):
        page.set_viewport_size({"width": width, "height": 1400})
        page.wait_for_timeout(400)
        wide = page.evaluate(
            "() => { const lab = document.querySelector('.ls-lab'); return lab.scrollWidth - lab.clientWidth; }"
        )
        assert wide <= 0, f"nothing sticks out at {width}"
    assert notebook.execute("print(view.errors, lab.error)") == "[] None"
    assert notebook.errors == []
    assert notebook.foreign == []
