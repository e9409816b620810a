"""The curves under the timeline and by themselves, in a real JupyterLab: what is drawn is what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.browser.test_cache_views import SETUP, step

SHOW = """
session.judge = lambda frames, texts: [0.2 + 0.5 * frames.mean() / 255 / (1 + i) for i, _ in enumerate(texts)]
player = Studio(session, autoplay=False)
player
"""
OTHER = "from studio.widgets import Curves\ncurves = Curves(session)\ncurves"
# Every line as (what, points in shares of width and height from the bottom).
LINES = """(within) => [...document.querySelectorAll(`${within} .ls-line`)].map((line) => [line.dataset.label,
    [...line.getAttribute('d').matchAll(/[ML]([\\d.]+) ([\\d.-]+)/g)].map((at) => [at[1] / 1000, 1 - at[2] / 100])])"""


def test_the_curves_are_what_was_measured(lab: Any, open_notebook: Any, screenshots: Path) -> None:
    lab.add("curves.ipynb", [SETUP, SHOW, OTHER])
    notebook = open_notebook("curves.ipynb", width=1000, height=2200)
    page = notebook.page
    notebook.run_all()
    page.locator(".ls-curves").nth(1).wait_for(timeout=60_000)
    lane = page.locator(".ls-curvetrack")
    # The widget of the curves measures from the start; the studio's own switch shows it and can end it.
    notebook.until(
        "() => document.querySelector('.ls-curvetrack .ls-measure').getAttribute('aria-pressed') === 'true'",
        "the residue is measured",
        10,
    )
    lane.locator(".ls-measure").click()
    notebook.until("() => document.querySelector('.ls-curvetrack [aria-pressed=\"false\"]')", "it is not any more", 10)
    assert notebook.execute("print(player._relay.measuring)") == "False"
    lane.locator(".ls-measure").click()
    notebook.until("() => document.querySelector('.ls-curvetrack [aria-pressed=\"true\"]')", "it is again", 10)
    step(notebook, 9)
    notebook.until("() => document.querySelectorAll('.ls-curvetrack .ls-line').length === 3", "three lines", 20)
    page.wait_for_timeout(800)

    code = """
clock = session.timeline.clock
end = clock.block_seconds(9)
at = lambda block: clock.block_seconds(block) / end
lines = {'alignment 0': [], 'alignment 1': [], 'residue 0': []}
for reading in curves.readings:
    for number, value in reading.alignment.items():
        lines[f'alignment {number}'].append([at(reading.block + 1), value])
    for found in reading.residues:
        lines['residue 0'].append([at(reading.block + (found.moment == 'made')), found.total])
print(lines)
"""
    wanted = eval(notebook.execute(code))
    single = dict(page.evaluate(LINES, ".ls-single .ls-curves"))
    assert set(single) == set(wanted)
    top = max(1.0, *(value for points in wanted.values() for _, value in points))
    assert top < 1.001, "the scale ends at 1"
    for name, points in wanted.items():
        assert len(single[name]) == len(points)
        for (x, y), (mine, value) in zip(single[name], points, strict=True):
            assert abs(x - mine) < 2e-3
            assert abs(y - value) < 2e-3
    lower = dict(page.evaluate(LINES, ".ls-curvetrack"))
    for name, points in wanted.items():
        assert [round(y, 2) for _, y in lower[name]] == [round(value, 2) for _, value in points]
    # The mark of the switch stands where its block begins.
    (mark,) = page.evaluate(
        "() => [...document.querySelectorAll('.ls-single .ls-rule')].map((line) => line.getAttribute('x1') / 1000)"
    )
    assert abs(mark - wanted["residue 0"][0][0]) < 2e-3

    # Pointing at a moment tells its values, and shows its slots in the strip.
    box = page.locator(".ls-single .ls-plot").bounding_box()
    block = 7
    x = float(notebook.execute(f"print((at({block}) + at({block + 1})) / 2)"))
    page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] / 2)
    detail = page.locator(".ls-single .ls-detail").first
    assert f"Block {block}" in detail.inner_text()
    assert f"{dict(map(tuple, wanted['alignment 1']))[wanted['alignment 1'][1][0]]:.2f}" in detail.inner_text()
    frame = 3 * block
    notebook.until(
        f"() => document.querySelector('.ls-slot[data-frame=\"{frame}\"]')?.dataset.on === 'true'", "its slot", 10
    )
    notebook.until("() => !document.querySelector('.ls-curvetrack .ls-pointed').hidden", "its place in the lane", 10)
    page.locator(".ls-single").screenshot(path=screenshots / "curves.png")
    page.locator(".ls-timeline").screenshot(path=screenshots / "curves-lane.png")
    assert notebook.execute("print(player.errors, curves.errors, session.error)") == "[] [] None"
    assert notebook.errors == []
