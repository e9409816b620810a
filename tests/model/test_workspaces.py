"""The bound on what a library takes for itself: set for one run, taken back whatever happens."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from studio.model import workspaces
from studio.model.workspaces import first_time, workspace_within

GPU = torch.device("cuda")
TOTAL = 2**33


@pytest.fixture
def card(monkeypatch):
    """A GPU of 8 GiB, of which 1 GiB is in use; what happens to it is written down."""
    told: list[object] = []
    for name, answer in (
        ("get_device_properties", SimpleNamespace(total_memory=TOTAL)),
        ("memory_reserved", 2**30),
        ("get_per_process_memory_fraction", 0.9),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer, raising=False)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.append("emptied"))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: told.append(share))
    return told


def test_there_is_room_for_the_result_and_a_little_more(card):
    result = torch.zeros(2)

    def run():
        card.append("run")
        return result

    assert workspace_within(2**28, 2**29, GPU, run) is result
    share = (2**30 + 2**28 + 2**29 + workspaces.MARGIN) / TOTAL
    assert card == ["emptied", share, "run", 0.9]


def test_what_does_not_fit_runs_without_a_bound(card):
    def run():
        card.append("run")
        if card.count("run") == 1:
            raise torch.OutOfMemoryError("no room")
        return torch.ones(1)

    assert workspace_within(0, 0, GPU, run) == 1
    assert card[2:] == ["run", 0.9, "run", 0.9]


def test_errors_leave_no_bound_behind(card):
    def run():
        raise ValueError("of another kind")

    with pytest.raises(ValueError, match="another kind"):
        workspace_within(2**28, 0, GPU, run)
    assert card[-1] == 0.9


def test_a_bound_that_is_tighter_already_stays(card):
    assert workspace_within(2**33, 0, GPU, lambda: torch.ones(1)) == 1
    assert card == ["emptied"]


def test_each_thread_sees_sizes_for_the_first_time_once():
    key, told = object(), []

    def ask():
        told.extend(first_time(key) for _ in range(2))

    for _ in range(2):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert told == [True, False, True, False]


@pytest.mark.gpu
def test_on_a_gpu_what_is_beyond_the_bound_is_not_given():
    sizes = []

    def run():
        x = torch.zeros(2**20, device=GPU)
        size = 2**31
        while size > 2**10:
            try:
                torch.empty(size, dtype=torch.uint8, device=GPU)
                break
            except torch.OutOfMemoryError:
                size //= 2
        sizes.append(size)
        return x

    workspace_within(2**28, 2**22, GPU, run)
    assert 2**27 <= sizes[0] <= 2**29
