"""Operators that write into a tensor: a twin shows what they write wherever the network does, and nowhere else is there one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pfedhr.inference import inference
from pfedhr.reassembly import DescriptionError, cut, decompose, describe, rebuild, rebuild_blocks, run_chain

INPUTS = torch.randn(5, 6)


class Network(nn.Module):
    """Three linear layers; `middle` maps what the first gives, with the second layer, to what the last takes."""

    def __init__(self, middle: Callable[[Tensor, Network], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.middle, self.drop = middle, nn.Dropout(0.5)
        self.register_buffer("count", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x), self) * self.count)


def added(x: Tensor, net: Network) -> Tensor:
    same = x
    x += net.second(x.tanh())
    return x + same


def subtracted_from_a_view(x: Tensor, net: Network) -> Tensor:
    part = x[:, :4]
    part -= 0.5
    return net.second(x)


def multiplied_in_a_slice(x: Tensor, net: Network) -> Tensor:
    x[:, 2:] *= 2
    return net.second(x)


def divided_after_dropout(x: Tensor, net: Network) -> Tensor:
    """In evaluation dropout hands on what it gets, in training it does not."""
    dropped = net.drop(x)
    dropped /= 3
    return net.second(x) + dropped


def added_of_another_type(x: Tensor, net: Network) -> Tensor:
    x = net.second(x)
    x += torch.full((6,), 0.1, dtype=torch.float64)
    return x


def counted(x: Tensor, net: Network) -> Tensor:
    net.count += 1
    return net.second(x)


WRITTEN = [added, subtracted_from_a_view, multiplied_in_a_slice, divided_after_dropout, added_of_another_type]


def learnt(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs after a step of training, which they also depend on."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(network.train().parameters(), 0.1)
    network(inputs).logsumexp(1).sum().backward()
    optimizer.step()
    with torch.no_grad():
        return network.eval()(inputs)


@pytest.mark.parametrize("middle", [*WRITTEN, counted], ids=lambda middle: middle.__name__)
def test_a_twin_writes_where_the_network_does(middle: Callable[[Tensor, Network], Tensor]) -> None:
    model = Network(middle)
    described = describe(model, INPUTS)
    twin = rebuild(described.blueprint, described.weights(model))
    assert torch.equal(learnt(twin, INPUTS), learnt(model, INPUTS))


@pytest.mark.parametrize("middle", WRITTEN, ids=lambda middle: middle.__name__)
def test_the_blocks_of_a_twin_write_where_the_network_does(middle: Callable[[Tensor, Network], Tensor]) -> None:
    model = Network(middle)
    described = describe(model, INPUTS)
    blocks = rebuild_blocks(cut(described.blueprint), described.weights(model))
    with inference(model, *(block.module for block in blocks)):
        assert torch.equal(run_chain(blocks, INPUTS), model(INPUTS))


def test_no_block_writes_into_what_another_gave() -> None:
    """Behind a stitch it would spoil what the stitch's ReLU needs for its own gradient."""
    blocks = decompose(Network(added), INPUTS)
    assert [len(block.names) for block in blocks] == [5, 2]  # the first two layers with the buffer, and the last
    for block in blocks:
        block.module.train()(torch.relu(torch.randn(5, *block.in_shape, requires_grad=True))).sum().backward()


def added_alone(x: Tensor, net: Network) -> Tensor:
    y = net.second(x)
    y += x
    y *= 2
    n = len(y)
    n += 1
    return y / n


def sum_of_new(x: Tensor, net: Network) -> Tensor:
    return (net.second(x) + x) * 2 / (len(x) + 1)


def test_what_nobody_else_reads_is_described_as_a_new_tensor() -> None:
    """So residual connections have one blueprint, whichever way they are written."""
    assert describe(Network(added_alone), INPUTS).blueprint == describe(Network(sum_of_new), INPUTS).blueprint


def test_what_is_written_in_a_way_that_no_blueprint_knows_is_refused_only_where_it_is_seen() -> None:
    """A new tensor may be known although the writing is not."""

    def seen(x: Tensor, net: Network) -> Tensor:
        same = x
        x **= 2
        return net.second(x) + same

    def unseen(x: Tensor, net: Network) -> Tensor:
        x **= 2
        return net.second(x)

    describe(Network(unseen), INPUTS)
    with pytest.raises(DescriptionError, match="ipow"):
        describe(Network(seen), INPUTS)
