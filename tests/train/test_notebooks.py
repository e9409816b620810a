"""The training notebooks run from nothing, on a CPU, and end with an improvement that they assert themselves."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["04_distill", "05_long_tuning"])
def test_the_notebook_ends_with_an_improvement(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert sum("assert " in cell.source for cell in notebook.cells) >= 1
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
