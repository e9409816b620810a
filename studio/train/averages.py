"""Averaged weights: what every training shows, exports and measures."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from studio.train.sharding import is_sharded

__all__ = ["WeightAverage"]

Network = TypeVar("Network", bound=nn.Module)


class WeightAverage:
    """An exponential moving average of the weights that are trained, begun with those of a given moment.

    Args:
        network: The network to follow.
        decay: Weight of the past, in [0, 1).
        early: Whether the first updates forget faster, which is for networks that begin with knowing nothing.

    Attributes:
        weights: Parameter name to its average.
    """

    def __init__(self, network: nn.Module, decay: float, *, early: bool = False) -> None:
        self.decay, self.early, self.updates = decay, early, 0
        self.weights = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Follow the network by one update."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9)) if self.early else self.decay
        pairs = [(self.weights[name], p) for name, p in network.named_parameters() if p.requires_grad]
        if any(is_sharded(parameter) for _, parameter in pairs):
            for average, parameter in pairs:
                average.lerp_(parameter, 1 - decay)
        else:
            averages, parameters = (list(tensors) for tensors in zip(*pairs, strict=True))
            torch._foreach_lerp_(averages, parameters, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def twin(self, network: Network) -> Network:
        """A network of its own, in evaluation mode, that has the averaged weights as they are at any time.

        Args:
            network: The network that is followed; what is not trained is copied from it now.
        """
        twin = copy.deepcopy(network).eval().requires_grad_(False)
        for name, parameter in twin.named_parameters():
            parameter.data = self.weights.get(name, parameter.data)
        return twin

    @contextmanager
    def shown(self, network: nn.Module) -> Iterator[None]:
        """Give the network its averaged weights inside, and its own ones back afterwards.

        Args:
            network: The network that is followed.
        """
        kept = {name: p.detach().clone() for name, p in network.named_parameters() if name in self.weights}
        self._put(network, self.weights)
        try:
            yield
        finally:
            self._put(network, kept)

    @staticmethod
    @torch.no_grad()
    def _put(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        mine = dict(network.named_parameters())
        for name, value in weights.items():
            mine[name].copy_(value)
