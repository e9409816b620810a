"""Measures the way from a source to the screen, and what playing costs the generator.

    python -m pytest -s tests/browser/bench_player.py tests/browser/fluency.py    # all, some minutes
    python -m pytest -s tests/browser/bench_player.py -k slow                     # one of them
    STUDIO_BENCH_S=600 python -m pytest -s tests/browser/bench_player.py -k memory

Each prints a line of JSON, and in the end there is a table of what was promised. The page is one that no inspector
watches (`tests/browser/bare.py`): watched, it is slower and its memory grows. Nothing here passes or fails by its
figures: other programs on the machine change them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.browser.bare import BarePage
from tests.browser.conftest import Notebook
from tests.browser.figures import table, tell
from tests.browser.slow_link import SlowLink

SECONDS = float(os.environ.get("STUDIO_BENCH_S", "20"))
SETUP = """import threading, time
from tests.browser.recording import Recording
from studio.widgets import Studio
source = Recording(SIZE, FPS)
widget = Studio(source, inspect=False)
most = [0]
def look():
    while widget._relay is not None:
        most[0] = max(most[0], widget._relay.outbox.in_flight)
        time.sleep(0.02)
threading.Thread(target=look, daemon=True).start()"""

COUNT = """() => {
    const canvas = document.querySelector('.ls-picture');
    window.seen = { frames: 0, last: -1, begun: performance.now(), gaps: [] , at: performance.now() };
    const look = () => {
        const now = performance.now();
        const frame = Number(canvas.dataset.frame);
        if (frame !== window.seen.last) {
            window.seen.frames++;
            window.seen.last = frame;
            window.seen.gaps.push(now - window.seen.at);
            window.seen.at = now;
        }
        requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""
COUNTED = """() => {
    const { frames, begun, gaps } = window.seen;
    const sorted = [...gaps].sort((a, b) => a - b);
    const drawn_fps = 1000 * frames / (performance.now() - begun);
    return { drawn_fps, gap_p95_ms: sorted[Math.floor(sorted.length * 0.95)] };
}"""
# The kernel is a child of the server, but has another command line.
PROGRAMS = {"browser": "chrom", "server": "jupyterlab"}
KERNEL = "import time, os; print(time.perf_counter(), time.process_time(), os.getloadavg()[0])"


@pytest.fixture(scope="session", autouse=True)
def told_in_the_end() -> Iterator[None]:
    """Print the table of promises after the last measurement."""
    yield
    sys.stdout.write("\n" + table())
    sys.stdout.flush()


@pytest.fixture
def link(lab: Any) -> Iterator[SlowLink]:
    link = SlowLink(int(urllib.parse.urlsplit(lab.url).port or 0))
    yield link
    link.close()


def opened(browser: Any, lab: Any, name: str, size: tuple[int, int], fps: float, port: int) -> Notebook:
    setup = SETUP.replace("SIZE", repr(size)).replace("FPS", repr(fps))
    lab.add(name, [setup, "widget"])
    notebook = Notebook(page=BarePage(browser), url=f"http://127.0.0.1:{port}/doc/tree/{name}?reset")
    notebook.open()
    notebook.run_all()
    notebook.until("() => Number(document.querySelector('.ls-picture')?.dataset.frame ?? -1) > 30", "frames")
    return notebook


def family() -> dict[int, str]:
    """The processes that this one has begun, and those that they have, by number: their command lines."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (folder / "cmdline").read_bytes().decode(errors="replace")
                parents[int(folder.name)] = (parent, words)
            except OSError:
                continue
    own = {os.getpid()}
    while more := {number for number, (parent, _) in parents.items() if parent in own} - own:
        own |= more
    return {number: parents[number][1] for number in own if number in parents}


def spent_by(word: str) -> float:
    """Seconds of processor that our processes with a word in their command line have taken so far."""
    ticks = 0
    for number, words in family().items():
        if word in words:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(notebook: Notebook, seconds: float) -> dict[str, Any]:
    notebook.page.wait_for_timeout(3000)
    before = {name: spent_by(word) for name, word in PROGRAMS.items()}
    wall, spent, _ = map(float, notebook.execute(KERNEL).split())
    notebook.page.evaluate(COUNT)
    notebook.page.wait_for_timeout(seconds * 1000)
    drawn = notebook.page.evaluate(COUNTED)
    ended, total, load = map(float, notebook.execute(KERNEL).split())
    shares = {
        f"{name}_core_percent": 100 * (spent_by(word) - before[name]) / (ended - wall)
        for name, word in PROGRAMS.items()
    }
    level = notebook.execute(
        "p = widget._relay.outbox.pacing\n"
        "print(p.index, p.level.quality, p.level.shrink, int(p._bytes.get(p.index, 0)))"
    )
    step, quality, shrink, size = map(int, level.split())
    return {
        **drawn,
        "kernel_core_percent": 100 * (total - spent) / (ended - wall),
        **shares,
        "most_in_flight": int(notebook.execute("print(most[0])")),
        "quality": quality,
        "shrink": shrink,
        "level": step,
        "kib_a_frame": size / 1024,
        "load_1min": load,
        "errors": notebook.execute("print(widget.errors)"),
    }


@pytest.mark.parametrize(("size", "fps"), [((480, 832), 16), ((480, 832), 48), ((480, 832), 60), ((128, 128), 60)])
def test_transport(browser: Any, lab: Any, link: SlowLink, size: tuple[int, int], fps: int) -> None:
    notebook = opened(browser, lab, f"bench-{size[0]}-{fps}.ipynb", size, fps, int(lab.url.rsplit(":", 1)[1]))
    tell("transport", size=f"{size[1]}x{size[0]}", fps=fps, seconds=SECONDS, **measure(notebook, SECONDS))
    notebook.page.context.close()


@pytest.mark.parametrize("megabits", [8, 2])
def test_slow_link(browser: Any, lab: Any, link: SlowLink, megabits: int) -> None:
    notebook = opened(browser, lab, f"slow-{megabits}.ipynb", (480, 832), 16, link.port)
    link.bits_s, link.delay_s = megabits * 1e6, 0.02
    notebook.page.wait_for_timeout(12_000)
    tell("slow link", megabits=megabits, size="832x480", fps=16, seconds=SECONDS, **measure(notebook, SECONDS))
    notebook.page.context.close()


def memory() -> float:
    """MiB that the browser's processes for pages hold."""
    pages = 0
    for number, words in family().items():
        if "--type=renderer" in words:
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{number}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_memory_of_the_page(browser: Any, lab: Any) -> None:
    notebook = opened(browser, lab, "memory.ipynb", (480, 832), 16, int(lab.url.rsplit(":", 1)[1]))
    notebook.page.wait_for_timeout(min(60.0, SECONDS / 3) * 1000)  # until the page holds as many frames as it may
    session = notebook.page
    samples: list[tuple[float, float, float]] = []
    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS:
        session.send("HeapProfiler.collectGarbage")
        heap = session.send("Runtime.getHeapUsage")["usedSize"] / 2**20
        samples.append((time.monotonic() - begun, heap, memory()))
        notebook.page.wait_for_timeout(min(10.0, SECONDS / 10) * 1000)
    third = max(1, len(samples) // 3)
    first, last = samples[:third], samples[-third:]
    tell(
        "memory of the page",
        seconds=SECONDS,
        heap_mib_first_third=median(s[1] for s in first),
        heap_mib_last_third=median(s[1] for s in last),
        renderer_mib_first_third=median(s[2] for s in first),
        renderer_mib_last_third=median(s[2] for s in last),
        frames=int(notebook.page.evaluate("() => Number(document.querySelector('.ls-picture').dataset.frame)")),
    )
    notebook.page.context.close()


GENERATE = """import time, threading
import studio
from studio.widgets import Studio
session = studio.open(MODEL, prompt='a red fox runs in the snow')
with session.frames() as warm:
    for _ in range(6):
        next(warm)
session.pause()
def alone(seconds):
    "Play at the video's own rate, without a picture."
    session.restart()
    seat = session.attach()
    session.play()
    begun, taken = time.perf_counter(), []
    while time.perf_counter() - begun < seconds:
        seat.played(min(int((time.perf_counter() - begun) * session.fps), max(0, session.stats.generated_frames - 1)))
        time.sleep(0.05)
    rate = session.stats.generated_fps
    session.pause()
    seat.close()
    return rate
widget = Studio(session, autoplay=False, inspect=False)
def spent():
    "Seconds of processor by thread: those that send and pack, and the one that generates."
    import os
    found = {'send': 0.0, 'generate': 0.0}
    for thread in threading.enumerate():
        with open(f'/proc/self/task/{thread.native_id}/stat') as lines:
            fields = lines.read().rsplit(')', 1)[1].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
        if thread.name.startswith(('studio-widget', 'studio-archive', 'IOPub')):
            found['send'] += seconds
        elif thread.name == 'studio-generator':
            found['generate'] += seconds
    return found"""


def test_what_playing_costs_the_generator(browser: Any, lab: Any) -> None:
    model = os.environ.get("STUDIO_BENCH_MODEL", "miniature")
    lab.add("cost.ipynb", [GENERATE.replace("MODEL", repr(model)), "widget"])
    notebook = Notebook(page=BarePage(browser), url=f"{lab.url}/doc/tree/cost.ipynb?reset")
    notebook.open()
    notebook.run_all()
    notebook.until("() => document.querySelector('.ls-picture') !== null", "the player", 120)
    rounds: list[tuple[float, float, float]] = []
    for _ in range(4):
        # Hidden, the page takes no part: generation goes on for the consumer in the kernel alone.
        notebook.page.evaluate("() => { document.querySelector('.ls-studio').style.display = 'none'; }")
        quiet = float(notebook.execute(f"w = widget; w._relay._detach(); print(alone({SECONDS / 2}))"))
        notebook.page.evaluate("() => { document.querySelector('.ls-studio').style.display = ''; }")
        notebook.execute("session.restart(); widget._relay._attach(); session.play(); before = spent()")
        notebook.page.wait_for_timeout(SECONDS / 2 * 1000)
        told = notebook.execute(
            "after = spent(); print(session.stats.generated_fps, *(after[n] - before[n] for n in ('send', 'generate')))"
        )
        playing, send, generate = map(float, told.split())
        notebook.execute("session.pause()")
        rounds.append((quiet, playing, send / generate))
        tell("round", quiet_fps=quiet, playing_fps=playing, send_s=send, generate_s=generate)
    quiet, playing, share = (median(one[i] for one in rounds) for i in (0, 1, 2))
    tell(
        "cost of playing",
        model=model,
        quiet_fps=quiet,
        playing_fps=playing,
        cost_percent=100 * (1 - playing / quiet),
        sending_to_generating_percent=100 * share,
        load_1min=os.getloadavg()[0],
        cores=os.cpu_count(),
    )
    notebook.page.close()
