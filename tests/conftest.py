"""What every test shares: few threads, fixed seeds, and a reason for every skip."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

THREADS = 2
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Read by torch and its maths libraries when they load, so that tests without torch need not import it for this.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, str(THREADS))
# Threads that spin for each other crawl where other programs use the processors; see studio/calm.py.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for variable in ("STUDIO_MODELS", "STUDIO_CACHE"):
    os.environ.pop(variable, None)  # a developer's own folders must not reach the tests
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("house")


def chromium_path() -> str:
    """Returns the path of the browser that tests drive, or nothing."""
    named = os.environ.get("STUDIO_CHROMIUM", "")
    return named or next((path for path in map(shutil.which, BROWSERS) if path), "")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests by their folder and skips those that this machine cannot run."""
    browser_folder = Path(__file__).parent / "browser"
    # The long ones first, so that several processes end together.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if browser_folder in item.path.parents:
            item.add_marker(pytest.mark.browser)
        if item.get_closest_marker("browser") and not chromium_path():
            item.add_marker(pytest.mark.skip(reason="no Chromium: install it, or name one in STUDIO_CHROMIUM"))
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Lets torch compute in one thread: bits depend on the number of threads, and small networks lose time by more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Starts every test from the same random state, whichever tests ran before."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]
