#!/usr/bin/env python3
"""Makes the lessons readable where no kernel runs.

    python docs/pages.py pages        runs the lessons and writes each as one HTML file into the folder `pages`
    python docs/pages.py --pictures   runs them and renews the pictures in docs/lessons that the notebooks show

A page holds everything it shows: no kernel, no network, no other file. It needs what JupyterLab itself brings
(nbconvert and nbclient). In a notebook a code cell with the tag `picture:NAME` gives the picture `NAME`; the text cell
after it shows it, folded away, so that nobody sees the outcome before they have made their guess.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LESSONS = ("03_recache_lab", "06_sinks_and_windows")
PICTURES = ROOT / "docs" / "lessons"
WIDGET = "application/vnd.jupyter.widget-view+json"
# How the notebooks show a committed picture.
SHOWN = re.compile(r"\n*<details>.*?</details>\n*", re.DOTALL)
WIDTH, TINTS = 820, 128


def execute(name: str) -> Any:
    """Runs a lesson from top to bottom.

    Args:
        name: Name of the notebook, without its ending.

    Returns:
        The notebook with its outputs.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    return notebook


def pictures(notebook: Any) -> dict[str, bytes]:
    """The pictures that a lesson's tagged cells made.

    Args:
        notebook: An executed notebook.

    Returns:
        Light PNG files by name.

    Raises:
        ValueError: If a tagged cell made none.
    """
    found = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if not tag.startswith("picture:"):
                continue
            made = [output["data"]["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
            if not made:
                raise ValueError(f"the cell tagged {tag} made no picture; let it end with a figure")
            found[tag.removeprefix("picture:")] = light(base64.b64decode(made[-1]))
    return found


def light(png: bytes) -> bytes:
    """A picture of few bytes: no wider than a page, in a palette.

    Args:
        png: A PNG file.

    Returns:
        Another one.
    """
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.quantize(TINTS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def page(notebook: Any) -> str:
    """One HTML file of a lesson, with the figures in place of widgets.

    Args:
        notebook: An executed notebook; it is changed.

    Returns:
        The HTML text.
    """
    from nbconvert import HTMLExporter

    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            # The outputs themselves are there.
            cell.source = SHOWN.sub("\n\n", cell.source).strip()
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop(WIDGET, None) is not None and "image/png" not in data:
                # Nothing was read yet when the cell ran; a later figure shows it.
                data.pop("text/html", None)
    exporter = HTMLExporter(template_name="lab", embed_images=True)
    exporter.mathjax_url = exporter.require_js_url = exporter.jquery_url = exporter.mermaid_js_url = ""
    html, _ = exporter.from_notebook_node(notebook)
    # What these would load is not used by any lesson, and would ask the network for it.
    return re.sub(r"<script\b[^>]*>.*?</script>", "", html, flags=re.DOTALL)


def main(arguments: list[str] | None = None) -> int:
    """The command.

    Args:
        arguments: What stands behind the name of the script; `None` for those of the process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where the pages go")
    parser.add_argument("--pictures", action="store_true", help="renew the pictures in docs/lessons")
    asked = parser.parse_args(arguments)
    if asked.folder is None and not asked.pictures:
        parser.error("name a folder for the pages, or give --pictures")
    for name in LESSONS:
        sys.stderr.write(f"running {name}\n")
        notebook = execute(name)
        if asked.pictures:
            PICTURES.mkdir(exist_ok=True)
            for title, data in pictures(notebook).items():
                (PICTURES / f"{title}.png").write_bytes(data)
        if asked.folder is not None:
            asked.folder.mkdir(parents=True, exist_ok=True)
            (asked.folder / f"{name}.html").write_text(page(notebook), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
