"""Known answers of HeteroFL."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_contract import run
from torch import Tensor, nn
from torch.nn import functional
from toy import equal, make_cohort

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.averaging import weighted_mean
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.heterofl import GlobalNetwork, HeteroFL, Portion
from pfedhr.algorithms.private import common_weights
from pfedhr.algorithms.slices import Slice, divide, is_slice, joined, measure_statistics, rates_of, scaled, silence, slice_of
from pfedhr.federate import Schedule
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.inference import predict
from pfedhr.learning import Training
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import Tensors, pack, unpack
from pfedhr.seeding import generator
from pfedhr.zoo.cnn import _cnn4, _Maps

QUARTER = HeteroFL("cnn4-quarter")
ALL = (0, 1, 2, 3)


def shapes(weights: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def perceptron(*widths: int):
    def factory(shape: tuple[int, ...], classes: int) -> nn.Module:
        first, second = widths
        layers = nn.Linear(64, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, classes)
        return nn.Sequential(nn.Flatten(), *layers)

    return factory


wide, narrow, crossed = perceptron(16, 8), perceptron(4, 2), perceptron(4, 12)


class Transposed(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.movedim(1, -1).flatten(1)


def spatial(channels: int):
    def factory(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), Transposed(), nn.Linear(64 * channels, classes))

    return factory


channels_last_wide, channels_last = spatial(4), spatial(2)


def normed(width: int):
    def factory(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.LayerNorm(width), nn.Linear(width, classes))

    return factory


normed_wide, normed_narrow = normed(8), normed(4)


def batch_normed(width: int):
    def factory(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes))

    return factory


batch_normed_wide, batch_normed_narrow = batch_normed(8), batch_normed(4)


def tiny(shape: tuple[int, ...], classes: int) -> nn.Module:
    """CNN4 at a sixteenth: a width of 64 times 0.0625 is 4."""
    maps = _Maps(shape)
    maps.add(2, 3, 1, "norm", nn.ReLU())
    maps.add(4, 3, 1, nn.ReLU(), "pool")
    return maps.finish((), classes, ())


def check(method: HeteroFL, cohort: Cohort) -> None:
    method.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))


def named(factory: str) -> HeteroFL:
    return HeteroFL(f"{__name__}:{factory}")


# What the server makes of slices


def test_equal_rates_and_all_classes_are_the_plain_mean() -> None:
    old, first, second, third = ({"w": torch.randn(4, 3), "b": torch.randn(4), "n": torch.tensor(at)} for at in range(4))
    sent = [Slice(weights, ALL) for weights in (first, second, third)]
    mean = weighted_mean([one.weights for one in sent], [1, 1, 1])
    new = joined(old, sent, ("w", "b"))
    assert all(torch.allclose(new[name], mean[name]) for name in ("w", "b"))
    assert new["n"].item() == mean["n"].item() == 3


def test_a_whole_and_a_half_share_what_they_overlap_in() -> None:
    whole, half = torch.arange(16.0).view(4, 4), -torch.ones(2, 2)
    new = joined({"w": torch.zeros(4, 4)}, [Slice({"w": whole}, ALL), Slice({"w": half}, ALL)], ())["w"]
    assert torch.equal(new[:2, :2], (whole[:2, :2] - 1) / 2)
    rest = torch.ones(4, 4, dtype=torch.bool)
    rest[:2, :2] = False
    assert torch.equal(new[rest], whole[rest])


def test_what_nobody_sent_stays_bit_for_bit() -> None:
    old = {"w": torch.randn(4, 4), "head": torch.randn(4, 2), "bias": torch.randn(4), "scale": torch.tensor(0.1)}
    first = Slice({"w": torch.ones(2, 1), "head": torch.ones(4, 1), "bias": torch.ones(4), "scale": torch.tensor(2.0)}, (0, 2))
    second = Slice({name: 3 * value for name, value in first.weights.items()}, (2,))
    kept = {name: value.clone() for name, value in old.items()}
    new = joined(old, [first, second], ("head", "bias"))
    assert equal(old, kept)
    assert torch.equal(new["w"][:2, :1], torch.full((2, 1), 2.0))
    assert torch.equal(new["w"][2:], old["w"][2:])
    assert torch.equal(new["w"][:, 1:], old["w"][:, 1:])
    assert new["head"][:, 0].tolist() == [1.0, old["head"][1, 0].item(), 2.0, old["head"][3, 0].item()]
    assert torch.equal(new["head"][:, 1], old["head"][:, 1])
    assert new["bias"].tolist() == [1.0, old["bias"][1].item(), 2.0, old["bias"][3].item()]
    assert new["scale"].item() == 4.0


def test_joining_is_what_it_is_scalar_by_scalar() -> None:
    rng = generator(0, "joining")
    old = {"w": torch.randn(5, 4, generator=rng), "head": torch.randn(4, 5, generator=rng)}
    sent = []
    for rows, columns, classes in ((5, 4, (0, 1)), (3, 2, (1, 3)), (4, 1, (3,))):
        weights = {"w": torch.randn(rows, columns, generator=rng), "head": torch.randn(4, rows, generator=rng)}
        sent.append(Slice(weights, classes))
    new = joined(old, sent, ("head",))
    for name, value in old.items():
        for row in range(value.shape[0]):
            for column in range(value.shape[1]):
                held = [
                    part.weights[name][row, column].item()
                    for part in sent
                    if row < part.weights[name].shape[0]
                    and column < part.weights[name].shape[1]
                    and (name != "head" or row in part.classes)
                ]
                expected = sum(held) / len(held) if held else value[row, column].item()
                assert new[name][row, column].item() == pytest.approx(expected, abs=1e-6)


def test_widths_are_rounded_up() -> None:
    shape = build(ModelSpec("cnn4-eighth", (1, 8, 8), 4), 0).state_dict()["conv2.0.weight"].shape
    assert shape == (8, 4, 3, 3)  # an eighth of 64 and of 32
    whole, part = (build(ModelSpec(name, (1, 8, 8), 4), 0) for name in (f"{__name__}:tiny_whole", f"{__name__}:tiny"))
    assert part.state_dict()["conv2.0.weight"].shape[0] == 4  # 0.0625 * 64
    assert is_slice(part, whole, torch.randn(3, 1, 8, 8))
    third, whole = _cnn4((1, 8, 8), 4, 3), _cnn4((1, 8, 8), 4, 1)  # 3 divides none of the widths
    sizes = [third.state_dict()[f"{name}.weight"].shape[0] for name in ("conv1.0", "conv2.0", "conv3.0", "fc1.0", "fc3")]
    assert sizes == [11, 22, 43, 342, 4]  # 32, 64, 128 and 1024 by 3
    assert is_slice(third.eval(), whole.eval(), torch.randn(3, 1, 8, 8))


def tiny_whole(shape: tuple[int, ...], classes: int) -> nn.Module:
    maps = _Maps(shape)
    maps.add(32, 3, 1, "norm", nn.ReLU())
    maps.add(64, 3, 1, nn.ReLU(), "pool")
    return maps.finish((), classes, ())


# What a client does


def test_dividing_weights_is_dividing_outputs() -> None:
    model = build(ModelSpec("cnn4-quarter", (1, 8, 8), 4), 0).eval()
    rates = {"conv2.0": 0.25, "fc1.0": 0.5}
    inputs = torch.randn(3, 1, 8, 8)
    plain = model(inputs)
    with scaled(model, rates):
        expected = model(inputs)
    assert torch.equal(model(inputs), plain)  # outside of the block nothing divides
    divide(model, rates)
    assert torch.allclose(model(inputs), expected, rtol=1e-5)
    assert not torch.allclose(plain, expected, rtol=1e-2)


def test_rates_are_the_shares_of_outputs_and_the_last_layer_is_whole() -> None:
    eighth, quarter = (ModelSpec(name, (1, 8, 8), 4) for name in ("cnn4-eighth", "cnn4-quarter"))
    rates = rates_of(eighth, quarter)
    assert rates == dict.fromkeys([*(f"conv{at}.0" for at in range(1, 7)), "fc1.0", "fc2.0"], 0.5)
    assert rates_of(quarter, quarter) == {}


def test_statistics_of_one_batch_are_those_of_all_examples() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5))
    inputs = torch.randn(20, 1, 8, 8)
    measure_statistics(model, inputs, 20, generator(0, "once"))
    outputs = model[0](inputs)
    buffers = dict(model.named_buffers())
    assert torch.allclose(buffers["1.running_mean"], outputs.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(buffers["1.running_var"], outputs.var((0, 2, 3)), atol=1e-6)
    # In batches: the plain mean over them. Means then come out the same where batches are of one size.
    measure_statistics(model, inputs, 5, generator(0, "four"))
    assert buffers["1.num_batches_tracked"].item() == 4
    assert torch.allclose(buffers["1.running_mean"], outputs.mean((0, 2, 3)), atol=1e-6)


def test_a_client_takes_statistics_of_its_examples_and_the_server_averages_them_entry_by_entry() -> None:
    cohort, method = make_cohort(f"{__name__}:batch_normed_wide", f"{__name__}:batch_normed_narrow"), named("batch_normed_wide")
    check(method, cohort)
    server_view, replies = InProcess(method, Workers(cohort)).server_view(1), dict[str, Slice]()
    for client in ("client00", "client01", "client03"):
        view = cohort.client_view(client, 1)
        after, replies[client], _ = method.client_step(method.init_client(view), Portion(None), view)
        own = method.personal_model(after, view).state_dict()
        hidden = functional.linear(view.train.ready(view.device).inputs.flatten(1), own["1.weight"], own["1.bias"])
        order = torch.randperm(24, generator=generator(0, 1, client, "statistics"))
        batches = [hidden[places] for places in order.split(8)]
        means, variances = (sum(one) / 3 for one in ([b.mean(0) for b in batches], [b.var(0) for b in batches]))
        for held in (own, replies[client].weights):
            torch.testing.assert_close(held["2.running_mean"], means)
            torch.testing.assert_close(held["2.running_var"], variances)
            assert held["2.num_batches_tracked"] == 3

    server, _ = method.server_step(method.init_server(server_view), replies, server_view)
    assert server.weights is not None
    for name in ("2.running_mean", "2.running_var", "2.weight", "1.weight"):
        wide, *narrow = (replies[client].weights[name] for client in sorted(replies))
        for place, value in enumerate(server.weights[name]):
            held = [wide[place], *(one[place] for one in narrow if place < 4)]
            torch.testing.assert_close(value, sum(held) / len(held))


def test_absent_classes_are_silent_and_their_rows_never_trained() -> None:
    model = build(ModelSpec("cnn4-eighth", (1, 8, 8), 4), 0)
    silence(model, 4, torch.tensor([False, True, False, True]))
    logits = predict(model, torch.randn(6, 1, 8, 8))
    assert torch.equal(logits[:, [1, 3]], torch.zeros(6, 2))
    assert (logits[:, [0, 2]] != 0).all()

    cohort = make_cohort("cnn4-eighth", clients=1)
    view = cohort.client_view("client00", 1)
    some = view.train.take(torch.isin(view.train.labels, torch.tensor([0, 2])).nonzero()[:, 0])
    view = dataclasses.replace(view, train=some, training=Training(2, 8, 0.01))
    state = QUARTER.init_client(view)
    after, reply, _ = QUARTER.client_step(state, Portion(None), view)
    assert reply.classes == (0, 2)
    assert torch.equal(reply.weights["fc3.weight"][[1, 3]], state.weights["fc3.weight"][[1, 3]])
    assert not torch.equal(reply.weights["fc3.weight"][[0, 2]], state.weights["fc3.weight"][[0, 2]])
    logits = predict(QUARTER.personal_model(after, view), some.ready(view.device).inputs)
    assert torch.equal(logits[:, [1, 3]], torch.zeros(len(some), 2))


def test_the_loss_is_that_of_masked_and_scaled_outputs() -> None:
    cohort = make_cohort(f"{__name__}:narrow", clients=1)
    view = cohort.client_view("client00", 1)
    some = view.train.take(torch.isin(view.train.labels, torch.tensor([1, 2])).nonzero()[:, 0])
    view = dataclasses.replace(view, train=some, training=Training(1, 64, 0.0))  # one batch, and no step
    method = named("wide")
    _, reply, metrics = method.client_step(method.init_client(view), Portion(None), view)
    weights = slice_of(common_weights(ModelSpec(f"{__name__}:wide", (1, 8, 8), 4), 0), shapes(reply.weights))
    ready = some.ready(view.device)
    hidden = ready.inputs.flatten(1)
    for layer in ("1", "3"):
        hidden = functional.linear(hidden, weights[f"{layer}.weight"], weights[f"{layer}.bias"]).mul(4).relu()  # r = 1/4
    logits = functional.linear(hidden, weights["5.weight"], weights["5.bias"])
    logits[:, [0, 3]] = 0.0
    assert metrics["loss"] == pytest.approx(functional.cross_entropy(logits, ready.labels).item(), rel=1e-5)


def test_a_whole_client_with_all_classes_trains_as_in_fedavg() -> None:
    cohort = make_cohort("cnn1", epochs=2)  # with dropout, without norms
    method = HeteroFL("cnn1")
    plain, _ = run(FedAvg(), cohort, Schedule(1, 4))
    results, states = run(method, cohort, Schedule(1, 4))
    server, mean = unpack(GlobalNetwork, results[-1].progress.server).weights, unpack(Shared, plain[-1].progress.server).weights
    assert server is not None
    assert mean is not None
    assert all(torch.allclose(server[name], mean[name], atol=1e-6) for name in mean)
    for client, state in states.items():
        view = cohort.client_view(client, 1)
        _, trained, _ = FedAvg().client_step(FedAvg().init_client(view), Shared(None), view)
        assert equal(unpack(Held, state or b"").weights, trained.weights)


def test_a_client_serves_what_it_trained() -> None:
    cohort = make_cohort("cnn4-eighth", clients=1)
    view = cohort.client_view("client00", 1)
    after, reply, _ = QUARTER.client_step(QUARTER.init_client(view), Portion(None), view)
    twin = build(view.network, 0)
    twin.load_state_dict(reply.weights)
    inputs = view.train.ready(view.device).inputs
    with scaled(twin, rates_of(view.network, ModelSpec("cnn4-quarter", (1, 8, 8), 4))):
        expected = predict(twin, inputs)
    assert torch.allclose(predict(QUARTER.personal_model(after, view), inputs), expected, rtol=1e-3, atol=1e-4)


def test_a_client_never_heard_of_cuts_the_global_network_itself() -> None:
    cohort = make_cohort("cnn4-quarter", "cnn4-eighth")
    start = common_weights(cohort.networks["client00"], 0)
    view = InProcess(QUARTER, Workers(cohort)).server_view(1)
    server = QUARTER.init_server(view)
    assert QUARTER.message(server, "client01") == Portion(None)
    replies = {}
    for client in ("client00", "client01"):
        own = cohort.client_view(client, 1)
        idle = dataclasses.replace(own, training=Training(0, 8, 0.002))
        state = QUARTER.init_client(own)
        assert equal(state.weights, slice_of(start, shapes(state.weights)))
        _, reply, _ = QUARTER.client_step(state, Portion(None), idle)
        learnt = [name for name in start if "running" not in name and "tracked" not in name]
        assert all(torch.equal(reply.weights[name], state.weights[name]) for name in learnt)
        _, replies[client], _ = QUARTER.client_step(state, Portion(None), own)
    server, _ = QUARTER.server_step(server, replies, view)
    assert server.weights is not None
    known, unknown = QUARTER.message(server, "client01").weights, QUARTER.message(server, "client03").weights
    assert known is not None
    assert unknown is not None
    assert equal(unknown, server.weights)
    assert equal(known, slice_of(server.weights, shapes(replies["client01"].weights)))
    late = cohort.client_view("client03", 2)
    first = QUARTER.client_step(QUARTER.init_client(late), Portion(unknown), late)
    second = QUARTER.client_step(QUARTER.init_client(late), Portion(known), late)
    assert equal(first[1].weights, second[1].weights)


def test_the_order_of_replies_changes_nothing() -> None:
    cohort = make_cohort("cnn4-quarter", "cnn4-eighth", clients=3)
    view = InProcess(QUARTER, Workers(cohort)).server_view(1)
    weights = {client: build(network, 0, client).state_dict() for client, network in cohort.networks.items()}
    replies = {client: Slice(dict(held), (at, 3)) for at, (client, held) in enumerate(weights.items())}
    first, _ = QUARTER.server_step(GlobalNetwork(None, {}), replies, view)
    second, _ = QUARTER.server_step(GlobalNetwork(None, {}), dict(reversed(replies.items())), view)
    assert pack(first) == pack(second)
    assert list(first.shapes) == list(cohort.networks)


def test_a_weight_that_two_layers_share_is_divided_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    inputs = torch.randn(2, 3)
    with scaled(model, {"0": 0.5, "1": 0.5}):
        expected = model(inputs)
    divide(model, {"0": 0.5, "1": 0.5})
    assert torch.allclose(model(inputs), expected)


# What is refused


@pytest.mark.parametrize(
    ("method", "network"),
    [
        (HeteroFL(), "cnn1"),
        (QUARTER, "cnn4"),  # wider than the whole
        (named("wide"), f"{__name__}:crossed"),
        (named("channels_last_wide"), f"{__name__}:channels_last"),  # every shape fits, and places do not
        (named("normed_wide"), f"{__name__}:normed_narrow"),  # a layer norm sees how wide its input is
    ],
)
def test_networks_that_are_no_slices_are_refused(method: HeteroFL, network: str) -> None:
    with pytest.raises(SettingError, match=r"heterofl needs slices of algorithm.global_network.*none.*clients.models"):
        check(method, make_cohort(network))


def test_networks_that_are_slices_are_taken() -> None:
    check(HeteroFL(), make_cohort("cnn4", "cnn4-half", "cnn4-quarter", "cnn4-eighth"))
    check(named("wide"), make_cohort(f"{__name__}:narrow"))


def test_an_adapter_an_unknown_global_network_and_one_without_a_head_are_refused() -> None:
    with pytest.raises(SettingError, match=r"heterofl.*algorithm.global_network.*clients.features = 0.*clients.models"):
        check(QUARTER, make_cohort("cnn4-eighth", features=16))
    with pytest.raises(SettingError, match=r"algorithm.global_network of heterofl: unknown model 'cnn5': did you mean"):
        check(HeteroFL("cnn5"), make_cohort("cnn4"))
    with pytest.raises(SettingError, match=r"global_network = .*headless' of heterofl.*no linear layer of 4 outputs"):
        check(HeteroFL("toy:headless"), make_cohort("toy:headless"))


class Turned(nn.Module):
    """Two linear layers of as many outputs as there are classes, the last one the first by name."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.out, self.body = nn.Linear(classes, classes), nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.body(images.flatten(1)).relu())


def test_a_global_network_whose_last_linear_layer_is_not_its_output_is_refused() -> None:
    with pytest.raises(SettingError, match=r"Turned' of heterofl.*last linear layer, 'body', is not what it returns"):
        check(named("Turned"), make_cohort(f"{__name__}:Turned"))
