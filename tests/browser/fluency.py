"""How soon the timeline answers with 500 segments and 1000 small pictures, in a real browser.

A measurement, not a test: it prints, for each kind of interaction, the milliseconds from the event to the end of the
frame that shows its outcome (median, 95th percentile, longest), and the milliseconds of computing an event costs the
page's main thread, which does not depend on what else the machine is doing.

    python -m pytest -s tests/browser/fluency.py
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tests.browser.figures import tell

SETUP = """from tests.widgets.takes import Forking
from studio.widgets import Studio
from studio.timeline import *
soft = (Transition(1), None, None, None, None)
segments = tuple(Segment(f"prompt {i} of the long story", 2 * i, transition=soft[i % 5]) for i in range(500))
source = Forking(size=(64, 96), block_s=0)
source.timeline = Timeline(segments, 1000, 7, markers=tuple(Marker(40 * i, f"m{i}") for i in range(25)))
for _ in range(1000):
    source.make()"""
SHOW = "widget = Studio(source, autoplay=False)\nwidget"

# A key that is held down repeats about 30 times a second, a wheel tells its turning with every picture of the screen.
# Sent without a pause, what is measured is how long they wait for each other in the browser.
REPEAT_MS, TURN_MS = 33, 17

# From the event to after the frame that follows it: what somebody waits for.
WATCH = """() => {
    const kinds = ['pointermove', 'pointerdown', 'pointerup', 'wheel', 'keydown'];
    window.timings = [];
    window.label = null;
    const root = document.querySelector('.ls-studio');
    for (const kind of kinds) {
        addEventListener(kind, (event) => {
            if (window.label === null || !root.contains(event.target)) return;
            const [label, begun] = [window.label, event.timeStamp];
            requestAnimationFrame(() => {
                const channel = new MessageChannel();
                channel.port1.onmessage = () => window.timings.push([label, performance.now() - begun]);
                channel.port2.postMessage(0);
            });
        }, true);
    }
}"""


def told(values: list[float]) -> str:
    """Median, 95th percentile and longest of some milliseconds."""
    found = sorted(values)
    at = [found[min(len(found) - 1, int(share * len(found)))] for share in (0.5, 0.95, 1)]
    return f"{len(found):5d} {at[0]:8.1f} {at[1]:8.1f} {at[2]:8.1f}"


def test_fluency(lab: Any, open_notebook: Any) -> None:
    lab.add("fluency.ipynb", [SETUP, SHOW])
    notebook = open_notebook("fluency.ipynb", width=1400, height=1250)
    notebook.run_all()
    page = notebook.page
    notebook.until("() => document.querySelector('.ls-segment') !== null", "the timeline", 180)
    page.locator(".ls-studio").scroll_into_view_if_needed()
    page.locator(".ls-studio").focus()
    mouse, keyboard = page.mouse, page.keyboard

    # Look at all of it once, closely enough that every block has its picture.
    lane = page.locator(".ls-lanebox").bounding_box()
    left, middle, wide = lane["x"], lane["y"] + lane["height"] / 2, lane["width"]
    for _ in range(6):
        page.get_by_role("button", name="Zoom in (+)").click()
    strip = page.locator(".ls-overview").bounding_box()
    for step in range(60):
        mouse.click(strip["x"] + strip["width"] * step / 60, strip["y"] + 8)
        page.wait_for_timeout(180)

    page.evaluate(WATCH)
    inside = page.context.new_cdp_session(page)
    inside.send("Performance.enable", {"timeDomain": "threadTicks"})
    busy: dict[str, float] = {}

    def spent() -> float:
        found = {item["name"]: item["value"] for item in inside.send("Performance.getMetrics")["metrics"]}
        return 1000 * found["TaskDuration"]

    def measured(label: str, action: Any, times: int) -> None:
        page.evaluate("(label) => { window.label = label; }", label)
        before = spent()
        for i in range(times):
            action(i)
        page.wait_for_timeout(200)
        busy[label] = spent() - before
        page.evaluate("() => { window.label = null; }")

    def wheel(across: float, down: float, key: str) -> Any:
        def action(i: int) -> None:
            keyboard.down(key)
            mouse.wheel(across, down if i % 40 < 20 else -down)
            keyboard.up(key)
            page.wait_for_timeout(TURN_MS)

        return action

    def drag(x: float) -> Any:
        def action(i: int) -> None:
            mouse.move(x, middle)
            mouse.down()
            for step in range(20):
                mouse.move(x + 4 * step, middle)
            keyboard.press("Escape")
            mouse.up()

        return action

    def choose(i: int) -> None:
        keyboard.press("ArrowDown")
        page.wait_for_timeout(REPEAT_MS)

    for zoom, name in ((0, "all of it"), (5, "closely")):
        keyboard.press("Escape")
        page.get_by_role("button", name="Show all of it (0)").click()
        for _ in range(zoom):
            page.get_by_role("button", name="Zoom in (+)").click()
        page.locator(".ls-studio").focus()
        measured(f"{name}: point", lambda i: mouse.move(left + (i * 37) % wide, middle), 80)
        mouse.move(left + wide / 2, middle)
        measured(f"{name}: zoom", wheel(0, -30, "Control"), 80)
        measured(f"{name}: pan", wheel(0, 60, "Shift"), 80)
        measured(f"{name}: drag", drag(left + wide / 3), 6)
        measured(f"{name}: choose by keys", choose, 60)
        ruler = page.locator(".ls-axis").bounding_box()
        mouse.move(left + 20, ruler["y"] + 8)
        mouse.down()
        measured(f"{name}: scrub", lambda i, y=ruler["y"] + 8: mouse.move(left + 20 + 9 * i, y), 80)
        mouse.up()
    timings = page.evaluate("() => window.timings")
    labels = list(dict.fromkeys(label for label, _ in timings))
    lines = [f"{'interaction':28s} {'count':>5s} {'median':>8s} {'95 %':>8s} {'longest':>8s} {'busy':>8s}  ms"]
    for label in labels:
        found = [ms for other, ms in timings if other == label]
        lines.append(f"{label:28s} {told(found)} {busy[label] / len(found):8.1f}")
    sys.stdout.write("\n".join(["", *lines, f"{'all':28s} {told([ms for _, ms in timings])}", ""]))
    ordered = sorted(ms for _, ms in timings)
    tell("fluency", p95_ms=ordered[int(0.95 * len(ordered))], interactions=len(ordered), load_1min=os.getloadavg()[0])
    assert len(labels) == 12
    assert notebook.errors == []
