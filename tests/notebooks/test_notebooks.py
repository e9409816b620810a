"""The notebooks run from top to bottom on a CPU; the training ones end with an improvement that they assert themselves.

The labs 03 and 06 are run by `tests/widgets/test_lab_notebooks.py`, which looks at what they show.
"""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LABS = {"03_recache_lab", "06_sinks_and_windows"}
TRAINING = {"04_distill", "05_long_tuning"}
NAMES = sorted({path.stem for path in NOTEBOOKS.glob("*.ipynb")} - LABS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_runs(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    if name in TRAINING:
        assert any("assert " in cell.source for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()


def test_every_notebook_is_run_somewhere():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} >= LABS | TRAINING
    labs = (Path(__file__).parents[1] / "widgets" / "test_lab_notebooks.py").read_text(encoding="utf-8")
    assert all(f"{name}.ipynb" in labs for name in LABS)
