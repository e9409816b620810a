"""The volume in a real JupyterLab: drawn in 3-D by software, and in slices where the page has no WebGL."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import FLAGS, Notebook, chromium_path
from tests.browser.test_cache_views import SETUP, step

SOFTWARE_GL = [
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
]  # fmt: skip
SHOW = "from studio.widgets import CacheStrip, Volume\nview = Volume(session)\nview"
OTHER = "strip = CacheStrip(session)\nstrip"


@pytest.fixture
def open_with(browser: Any, lab: Any) -> Iterator[Callable[..., Notebook]]:
    """Opens a notebook in a Chromium with flags of its own."""
    opened = []

    def open_one(name: str, flags: list[str]) -> Notebook:
        own = browser.browser_type.launch(executable_path=chromium_path(), args=[*FLAGS, *flags])
        opened.append(own)
        page = own.new_context(viewport={"width": 1000, "height": 1300}).new_page()
        notebook = Notebook(page=page, url=f"{lab.url}/doc/tree/{name}?reset")
        notebook.watch()
        notebook.open()
        return notebook

    yield open_one
    for own in opened:
        own.close()


def show(notebook: Notebook) -> Any:
    page = notebook.page
    notebook.run_all()
    page.locator(".ls-volume").wait_for(timeout=60_000)
    step(notebook, 4)
    notebook.until(
        "() => document.querySelector('.ls-volume .ls-heading').textContent.endsWith('to block 3')", "block 3 is shown"
    )
    return page


def picture(page: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.locator(".ls-scene").screenshot())).convert("RGB")).astype(int)


def test_the_volume_is_drawn(lab: Any, open_with: Any, screenshots: Path) -> None:
    lab.add("volume.ipynb", [SETUP, SHOW])
    notebook = open_with("volume.ipynb", SOFTWARE_GL)
    page = show(notebook)
    page.locator(".ls-scene canvas").first.wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    shown = eval(notebook.execute("print(view.scened)"))
    assert (shown["block"], shown["what"]) == (3, "“runs”"), "the longest word tells more than an article"
    before = picture(page)
    page.locator(".ls-pane.ls-volume").screenshot(path=screenshots / "volume-3d.png")
    assert (before.max(axis=2) - before.min(axis=2) > 30).mean() > 0.005, "something in colour is drawn"

    # Less opacity shows; so does a slice.
    page.get_by_label("Opacity").fill("-1.5")
    page.wait_for_timeout(2000)
    dense = picture(page)
    assert np.abs(dense - before).mean() > 1
    page.get_by_label("Show the slice in the volume").check()
    page.get_by_label("Slice: a latent frame").fill("7")
    page.wait_for_timeout(2000)
    cut = picture(page)
    assert np.abs(cut - dense).mean() > 0.2
    page.locator(".ls-pane.ls-volume").screenshot(path=screenshots / "volume-slice.png")
    assert notebook.execute("print(view.scene.slice_x)") == str(7.5 / 12 * 48)

    # In the dark it is drawn on the page's own ground, as large as its place.
    ground = "getComputedStyle(document.querySelector('.ls-scene')).backgroundColor"
    for theme in ("Dark", "Light"):
        notebook.theme(f"JupyterLab {theme}")
        notebook.until(f"() => document.querySelector('.ls-studio').dataset.theme === '{theme.lower()}'", "the theme")
        notebook.until_told("print(view.scene.style['background-color'])", page.evaluate(ground))
    notebook.until_told(
        "print([view.scene.width, view.scene.height])",
        str(
            page.evaluate(
                "(({ clientWidth, clientHeight }) => [clientWidth, clientHeight])(document.querySelector('.ls-scene'))"
            )
        ),
    )

    # Another word, another volume; the numbers are those of the readings.
    page.get_by_label("Whose attention").select_option(label="the word “fox”")
    notebook.until("() => true", "a moment")
    for _ in range(100):
        if eval(notebook.execute("print(view.scened)"))["what"] == "“fox”":
            break
        page.wait_for_timeout(100)
    code = """
import numpy as np
maps = np.concatenate([r.words.maps[..., 2].mean(axis=0) for r in view.readings])
wide = view.scene.volumes[0].data_original
print(len(maps), abs(float(maps.max()) - view.scened['most']) < 1e-6, wide.shape, float(wide.max()))
"""
    assert notebook.execute(code) == "12 True (32, 32, 48) 1.0"
    assert notebook.execute("print(view.errors)") == "[]"
    assert notebook.foreign == []


def test_slices_where_there_is_no_webgl(lab: Any, open_with: Any, screenshots: Path) -> None:
    lab.add("slices.ipynb", [SETUP, SHOW, OTHER])
    notebook = open_with("slices.ipynb", ["--disable-gpu", "--disable-3d-apis"])
    page = show(notebook)
    assert page.get_by_role("button", name="3-D").is_disabled()
    assert "no WebGL" in page.locator(".ls-volume .ls-detail").inner_text()
    page.get_by_label("Whose attention").select_option(label="the word “red”")
    notebook.until("() => document.querySelectorAll('.ls-sheets .ls-look').length === 12", "a slice a frame")
    frames = page.evaluate(
        "() => [...document.querySelectorAll('.ls-sheets .ls-look')].map((one) => one.dataset.frame)"
    )
    assert frames == [str(frame) for frame in range(12)]
    opacity = page.evaluate(
        """() => [...document.querySelectorAll('.ls-sheets .ls-gaze')].flatMap((canvas) =>
            [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]
                .filter((_, i) => i % 4 === 3))"""
    )
    code = "import numpy as np\nfrom studio.widgets.spacetime import space_time\n"
    values = eval(notebook.execute(code + "print(space_time(view.readings, 'red').values.ravel().tolist())"))
    wanted = [round(225 * value / max(values)) for value in values]
    assert max(abs(one - other) for one, other in zip(opacity, wanted, strict=True)) <= 1

    # Two widgets of one session point together.
    page.locator(".ls-sheets .ls-look[data-frame='4']").hover()
    notebook.until("() => document.querySelector('.ls-slot[data-frame=\"4\"]')?.dataset.on === 'true'", "the slot", 10)
    page.locator(".ls-slot[data-frame='7']").hover()
    notebook.until(
        "() => document.querySelector('.ls-sheets [data-frame=\"7\"]').dataset.on === 'true'", "the slice", 10
    )
    page.locator(".ls-pane.ls-volume").screenshot(path=screenshots / "volume-slices.png")
    assert notebook.execute("print(view.errors, strip.errors)") == "[] []"
    assert notebook.errors == []
