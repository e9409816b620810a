"""Averaged weights: how they follow, and how they are looked at."""

from __future__ import annotations

import torch
from torch import nn

from studio.train.averages import WeightAverage


def layer(value: float) -> nn.Linear:
    made = nn.Linear(2, 2)
    nn.init.constant_(made.weight, value)
    nn.init.constant_(made.bias, value)
    return made


def test_an_average_moves_by_what_the_past_leaves():
    network = layer(0.0)
    average = WeightAverage(network, 0.9)
    nn.init.constant_(network.weight, 1.0)
    average.update(network)
    torch.testing.assert_close(average.weights["weight"], torch.full((2, 2), 0.1))
    average.update(network)
    torch.testing.assert_close(average.weights["weight"], torch.full((2, 2), 0.19))


def test_an_early_average_forgets_its_beginning_faster():
    network = layer(0.0)
    slow, early = WeightAverage(network, 0.99), WeightAverage(network, 0.99, early=True)
    nn.init.constant_(network.weight, 1.0)
    for average in (slow, early):
        average.update(network)
    torch.testing.assert_close(early.weights["weight"], torch.full((2, 2), 0.9))
    torch.testing.assert_close(slow.weights["weight"], torch.full((2, 2), 0.01))
    for _ in range(2000):
        early.update(layer(0.5))
    assert early.updates / (early.updates + 9) > 0.99, "by now the past counts as it is told to"
    before = early.weights["weight"].clone()
    early.update(layer(1.0))
    torch.testing.assert_close(early.weights["weight"], before.lerp(torch.ones(2, 2), 0.01))


def test_a_twin_follows_and_what_is_not_trained_is_a_copy():
    network = layer(0.0)
    network.bias.requires_grad_(False)
    average = WeightAverage(network, 0.5)
    twin = average.twin(network)
    nn.init.constant_(network.weight, 1.0)
    nn.init.constant_(network.bias, 1.0)
    average.update(network)
    assert set(average.weights) == {"weight"} and not twin.training
    assert twin.weight[0, 0] == 0.5 and twin.bias[0] == 0.0 and not twin.weight.requires_grad


def test_a_network_gets_its_own_weights_back_even_after_a_fault():
    network = layer(0.0)
    average = WeightAverage(network, 0.5)
    nn.init.constant_(network.weight, 1.0)
    try:
        with average.shown(network):
            assert network.weight[0, 0] == 0.0
            raise KeyError
    except KeyError:
        assert network.weight[0, 0] == 1.0 and network.weight.requires_grad
