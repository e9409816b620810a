"""Several processes: gradients are averaged, clocks agree, and all of them hold the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from studio.train.ranks import Ranks
from studio.train.runtime import Budget

SCRIPT = """
import sys, torch
from torch import nn
from studio.train.ranks import Ranks
from studio.train.runtime import Budget

ranks = Ranks("cpu")
torch.manual_seed(ranks.seed(0))
net = nn.Linear(3, 2)
ranks.share(net)
before = ranks.together(net.weight.detach().clone())
assert torch.equal(before, net.weight), "every rank must begin with rank 0's weights"
x = torch.full((1, 3), float(ranks.rank + 1))
net(x).sum().backward()
ranks.average(net.parameters())
assert torch.allclose(net.weight.grad, torch.full((2, 3), 1.5)), net.weight.grad
assert torch.allclose(net.bias.grad, torch.ones(2))
steps = sum(1 for _ in Budget(0.5 + ranks.rank, agree=ranks.agree))
assert ranks.agree(float(steps)) == steps, "every rank must take as many steps"
assert ranks.seed(7) == 7 + 1_000_003 * ranks.rank
assert ranks.main == (ranks.rank == 0)
ranks.leave()
"""


def environment(rank: int, port: int) -> dict[str, str]:
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def test_two_processes_agree(free_port: int) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment(rank, free_port), stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()[-2000:]


def test_one_process_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    ranks, net = Ranks("cpu"), nn.Linear(2, 2)
    net(torch.ones(1, 2)).sum().backward()
    gradient = net.weight.grad.clone()
    ranks.share(net)
    ranks.average(net.parameters())
    assert torch.equal(net.weight.grad, gradient)
    assert (ranks.rank, ranks.world, ranks.main, ranks.agree(0.25)) == (0, 1, True, 0.25)
    ranks.leave()


def test_a_budget_ends_by_time_or_by_steps() -> None:
    assert sum(1 for _ in Budget(60, steps=5)) == 5
    budget = Budget(0.05)
    for _ in budget:
        pass
    assert budget.progress == 1.0


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_an_empty_budget_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="`seconds` must be positive"):
        Budget(seconds)
