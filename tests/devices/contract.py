"""What every algorithm, engine and graph method promises of a device: the CPU's numbers on it.

A device that computes as the CPU and refuses to mix with it (`tests.devices`) stands for a GPU. In
float64, since convolutions round differently for each layout in memory; and nothing random is drawn
on the device, since a GPU's stream would be another one. `tests/contracts/test_devices.py` runs
this file in a process of its own.
"""

import importlib
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import graphkd
from fedkd import algorithms
from fedkd import models as architectures
from fedkd.engines.batched import batched
from fedkd.engines.ray import serialization
from fedkd.engines.ray.actor import carried
from fedkd.engines.sequential import sequential
from fedkd.messages import Ledger, Upload
from fedkd.rounds import checkpoint
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from graphkd import distill, methods
from graphkd.core import Epoch
from graphkd.data import datasets, registry
from graphkd.ops.dropout import Dropout, drawn_on_device
from kdcore.devices import Made
from kdcore.rng import generator
from kdcore.training.loop import Clipping, TrainingConfig
from simulations.config.experiments import Compression, SurveyExperiment, Topology, build
from simulations.config.resources import Resources
from simulations.runners import federated
from simulations.survey import datasets as survey_data
from simulations.survey import recipes, runner
from tests.contracts.test_engines import RAGGED, small
from tests.contracts.test_recipes import TIMES, shortened, with_data
from tests.devices import pretend
from tests.graphkd.examples import graphs

ENGINES = {"sequential": sequential, "batched": batched()}
FAMILIES = ["mlp-8", "cnn-4-4", "lenet", "resnet8-4", "mobile-4-4"]
QUICK_PAIRS = {("sequential", "mlp-8"), ("batched", "mlp-8"), ("batched", "cnn-4-4")}
PAIRS = [
    pytest.param(engine, family, marks=[] if (engine, family) in QUICK_PAIRS else pytest.mark.slow)
    for engine in ENGINES
    for family in FAMILIES
]

every_algorithm = pytest.mark.parametrize("name", algorithms.names())


@pytest.fixture(scope="session")
def device():
    """The pretend device."""
    return pretend.start()


@pytest.fixture
def undrawn(device):
    """Refuse a test that draws random numbers on the device."""
    before = pretend.counts().draws
    yield
    assert pretend.counts().draws == before


def far(one, other):
    """The largest difference between tensors under the same names, on whatever devices."""
    assert set(one) == set(other)
    largest = 0.0
    for name, value in other.items():
        found = one[name].cpu()
        assert found.dtype == value.dtype
        if value.numel():
            largest = max(largest, float((found.double() - value.double()).abs().max()))
    return largest


def last(name, federation, engine, **more):
    algorithm, task = small(name, "momentum"), federation.task
    found = list(simulate(algorithm, task, federation.clients, rounds=2, engine=engine, **more))[-1]
    assert not found.failed
    assert not found.rejected
    return found, deployed(algorithm, federation.task, found, engine=engine)


@every_algorithm
@pytest.mark.parametrize(("engine", "family"), PAIRS)
def test_an_algorithm_computes_on_a_device_what_it_computes_on_the_cpu(
    name, engine, family, tiny, double, device, undrawn
):
    shape = (3, 16, 16) if family in ("lenet", "mobile-4-4") else (1, 6, 6)
    here = tiny([family], RAGGED, public=5, shape=shape)
    there = here.to(device)
    (expected, models), (found, moved) = (last(name, f, ENGINES[engine]) for f in (here, there))
    assert far(found.server, expected.server) < 1e-6
    for one, other in zip((*found.clients, *moved), (*expected.clients, *models), strict=True):
        assert far(one.params, other.params) < 1e-6
        assert {value.device.type for value in one.params.values()} == {"pretend"}
    assert {value.device.type for value in found.server.values()} <= {"pretend"}
    scores = [
        evaluate(f.task, clients, f.test, f.kind_counts, ENGINES[engine], f.kinds)
        for f, clients in ((here, models), (there, moved))
    ]
    for name, cpu in scores[0].items():
        torch.testing.assert_close(scores[1][name].cpu(), cpu, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("engine", "family"), sorted(QUICK_PAIRS))
def test_private_training_on_a_device_has_the_noise_of_the_cpu(
    engine, family, tiny, double, device, undrawn
):
    here = tiny([family], RAGGED, public=5)
    local = TrainingConfig(batch_size=3, privacy=Clipping(0.5, 0.7))
    algorithm, found = algorithms.get("fd")(local=local), []
    for federation in (here, here.to(device)):
        asked = federation.task, federation.clients
        found.append([*simulate(algorithm, *asked, rounds=2, engine=ENGINES[engine])][-1])
    for cpu, other in zip(found[0].clients, found[1].clients, strict=True):
        assert far(other.params, cpu.params) < 1e-6


@every_algorithm
def test_a_checkpoint_on_a_device_goes_on_as_if_it_had_not_stopped(
    name, tiny, double, device, undrawn, tmp_path
):
    federation = tiny(["mlp-8"], RAGGED, public=5).to(device)
    expected, _ = last(name, federation, batched())
    task, clients = federation.task, federation.clients
    first = next(simulate(small(name, "momentum"), task, clients, rounds=2, engine=batched()))
    checkpoint.save(tmp_path, first, Ledger(), "this one")
    loaded = checkpoint.load(tmp_path, clients, "this one", device)
    found, _ = last(name, federation, batched(), after=loaded[0])
    assert checkpoint.digest(found) == checkpoint.digest(expected)


@every_algorithm
def test_a_round_of_many_clients_takes_few_copies_and_few_waits(name, tiny, device):
    many = tiny(["mlp-8"], [3 + k % 4 for k in range(100)], public=5).to(device)
    rounds = simulate(small(name, "momentum"), many.task, many.clients, rounds=2, engine=batched())
    next(rounds)  # nobody was told anything
    before = pretend.counts()
    assert not next(rounds).rejected
    after = pretend.counts()
    assert after.to_device - before.to_device + after.to_host - before.to_host < 50
    assert after.reads - before.reads < 50


def test_a_chunk_of_a_ray_actor_leaves_the_device_at_once(device):
    model = architectures.build("resnet8", (1, 8, 8), 10)
    clients = [model.init(generator(0, k)) for k in range(20)]
    there = [{name: value.to(device) for name, value in one.items()} for one in clients]
    answers = [Upload(params, torch.tensor(k, device=device)) for k, params in enumerate(there)]
    before = pretend.counts()
    crossing, copy = carried(answers, there)
    assert pretend.counts().to_host - before.to_host == 2  # parameters, and weights
    found = serialization.unpack(crossing, device=device)
    assert pretend.counts().to_device - before.to_device == 2
    for k, (one, params) in enumerate(zip(found, clients, strict=True)):
        assert one.weight.item() == k
        assert far(one.payload, params) == 0
        assert all((copy[name][k] == value.numpy()).all() for name, value in params.items())


SMALL = {"clients": 3, "rounds": 2, "private": 60, "public": 40, "test": 50, "models": ["mlp-8"]}
WAYS = {
    **{f"compression={c}": {"compression": c} for c in get_args(Compression)[1:-1]},
    "clients": {"epsilon": 8.0, "privacy_unit": "client"},
    "votes": {
        "votes.most": 20,
        "votes.threshold": 1.0,
        "votes.test_noise": 1.0,
        "votes.noise": 1.0,
    },
    "secure": {"secure_sum": True},
    "compression=krr": {"compression": "krr", "epsilon_label": 4.0},
    **{f"topology={t}": {"topology": t, "degree": 2} for t in get_args(Topology)[1:]},
    "clock": {
        "clock.stragglers": 0.5,
        "clock.step_seconds": 1.0,
        "clock.deadline": 9.0,
        "clock.staleness": 2,
    },
    "buffer": {"clock.buffer": 2, "clock.step_seconds": 1.0},
    "sample": {"fraction": 0.5},
    "corrupt": {"corrupt": "1:nan"},
    "liars": {"liars": "0.3:noise"},
    "variance": {"liars": "0.3:class-prior", "aggregation": "variance-era"},
    "filter": {"liars": "0.3:confident", "aggregation": "filter-variance"},
    "expguard": {"aggregation": "expguard"},
    "validation": {"validation": 20},
    "ray": {"engine": "ray"},
}


@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=[pytest.mark.ray] if w == "ray" else []) for w in WAYS]
)
@pytest.mark.parametrize("name", ["fedavg", "fedmd"])
def test_a_run_says_the_same_on_a_device_whatever_happens_on_the_way(name, way, double, device):
    experiment = build("fed", name, {**SMALL, **WAYS[way]})
    if way == "ray":  # its driver is on the CPU, and its actors are where their share is
        with pytest.raises(ValueError, match="of which they have a share"):
            next(federated.run(experiment, None, Resources(device="pretend")))
        return
    try:
        here = list(federated.run(experiment))
    except ValueError as reason:
        assert "distributions" in str(reason) or "probabilities" in str(reason)  # noqa: PT017
        return
    there = list(federated.run(experiment, None, Resources(device="pretend")))
    for one, other in zip(there, here, strict=True):
        assert set(one) == set(other)
        assert one.get("ledger") == other.get("ledger")
        assert one.get("rejected") == other.get("rejected")
        for key in ("accuracy", "calibration_error", "bytes_up", "bytes_down", "virtual_seconds"):
            assert one.get(key) == pytest.approx(other.get(key), abs=1e-6)


def test_what_is_drawn_in_place_on_a_device_is_drawn_on_the_cpu(device, undrawn):
    expected = torch.empty(5).uniform_(-1, 1, generator=generator(0, "here"))
    with Made(device):
        found = torch.empty(5)
        assert found.uniform_(-1, 1, generator=generator(0, "here")) is found
    assert found.device.type == "pretend"
    assert torch.equal(found.cpu(), expected)


FEWER = {  # examples of the recipes that take longest
    "expansion": {"unlabelled": 500, "copies": 1},
    "recognition": {"train": 620, "test": 200},
    "codistillation": {"rounds": 2},
    "data_free": {"rounds": 4},
    "self_supervised": {"train": 800, "copies": 1},
    "generation_images": {"noises": 400, "copies": 1},
    "generation_text": {
        "student_text": 4000,
        "generated": 8000,
        "held_out": 4000,
        "teacher_text": 8000,
    },
}


def recipe_on(name, place):
    """What a short run of a recipe measures, without what depends on the clock."""
    recipe = replace(shortened(recipes.get(name)()), **FEWER.get(name, {}))
    data = tree_map_only(Tensor, in_double, survey_data.load(recipe.data))
    metrics = runner.measured(SurveyExperiment(recipe, 100), data, torch.device(place))
    return {name: value for name, value in metrics.items() if not any(t in name for t in TIMES)}


def in_double(value):
    return value.double() if value.is_floating_point() else value


@pytest.mark.slow
@pytest.mark.parametrize("name", [with_data(name) for name in recipes.names()])
def test_a_recipe_measures_on_a_device_what_it_measures_on_the_cpu(name, double, device, undrawn):
    before = pretend.counts().to_device
    assert recipe_on(name, "pretend") == pytest.approx(recipe_on(name, "cpu"), abs=1e-6)
    assert pretend.counts().to_device > before


# --- graphs ---------------------------------------------------------------------------------------

FAKE = replace(datasets.fake(size=55), x=datasets.fake(size=55).x.double())
QUICK = {"epochs": 3, "hidden": 8, "teacher_epochs": 3, "teacher_hidden": 8}
NODES, LINKS = (
    [name for name in methods.names() if methods.get(name).task == task]
    for task in ("nodes", "links")
)


def products(h, edges):
    """h_i . h_j of each edge, entry by entry: the device has no sampled product, as CUDA does."""
    return (h[edges.row] * h[edges.rows.columns]).sum(dim=-1)


def near(found, expected):
    """Whether records are the same within 1e-6, wherever they were computed."""
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, Epoch):
            assert (one.phase, one.index, one.best) == (other.phase, other.index, other.best)
            assert (one.loss, one.accuracy) == pytest.approx((other.loss, other.accuracy), abs=1e-6)
        else:
            assert one.metrics == pytest.approx(other.metrics, abs=1e-6)


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("protocol", graphkd.splits.PROTOCOLS)
def test_a_graph_method_computes_on_a_device_what_it_computes_on_the_cpu(
    name, protocol, double, device, undrawn, monkeypatch
):
    local_structure = importlib.import_module("graphkd.losses.local_structure")
    monkeypatch.setattr(local_structure, "_products", products)
    split = registry.split(FAKE, protocol, seed=1)
    method = methods.get(name)(**QUICK)
    here, there = (list(distill.distill(method, s, seed=1)) for s in (split, split.to(device)))
    near(there, here)


@pytest.mark.parametrize("name", LINKS)
def test_so_does_a_method_of_links(name, double, device, undrawn):
    split = registry.split(FAKE, "transductive", seed=1, task="links")
    method = methods.get(name)(**QUICK)
    here, there = (list(distill.distill(method, s, seed=1)) for s in (split, split.to(device)))
    near(there, here)


@pytest.mark.parametrize(
    "networks", ["sage+gcn", pytest.param("gat+mlp", marks=pytest.mark.slow)]
)  # draws of hidden states, and of attention
def test_dropout_is_drawn_on_the_device_where_that_is_asked_for(networks, double, device):
    teacher, student = networks.split("+")
    split = registry.split(FAKE, "transductive", seed=1).to(device)
    found, draws = [], []
    for drawn in (False, True, True):
        layers = {"teacher": teacher, "student": student, "dropout": 0.5, "teacher_dropout": 0.5}
        method = methods.get("glnn")(**QUICK | layers, device_dropout=drawn)
        before = pretend.counts().draws
        found.append(list(distill.distill(method, split, seed=1)))
        draws.append(pretend.counts().draws - before)
    assert draws[0] == 0
    assert draws[1] == draws[2] > 0
    near(found[1], found[2])


def test_pytorchs_own_dropout_is_drawn_likewise(device):
    h = torch.ones(300, 300, device=device)
    for wanted in (False, True):
        before = pretend.counts().draws
        with drawn_on_device(wanted):
            kept = Dropout(0.5)(h)
        assert (pretend.counts().draws > before) is wanted
        assert float((kept > 0).double().mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", NODES)
def test_so_it_does_on_many_graphs_unless_it_refuses_them(name, double, device, undrawn):
    cls = methods.get(name)
    own = cls.copies or cls.taught_by
    method = cls(**QUICK | ({} if own else {"teacher": "gin", "student": "gin"}))
    split = registry.split(graphs(30), "folds", seed=1)
    try:
        here = list(distill.distill(method, split, seed=1))
    except ValueError as reason:
        assert "whole graphs" in str(reason)  # noqa: PT017  (what else it does is tested)
        return
    near(list(distill.distill(method, split.to(device), seed=1)), here)
