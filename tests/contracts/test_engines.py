"""What every engine promises: the answer of the sequential one, whatever the algorithm.

Engines and algorithms are found by looking into their packages: a new one is compared here from
its first day. The engine of a module is the function of the module's name (an engine, or something
that makes one), or else its class with a name that ends in Engine.
"""

import ast
import contextlib
import importlib
import inspect
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

import fedkd.engines
from fedkd import algorithms
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import OPTIMIZERS, TrainingConfig

RAGGED = (1, 2, 9, 4)  # 1, 1, 3 and 1 batches of four: three clients have batches of padding alone
FAMILIES = ("mlp-8", "cnn-4-4", "resnet8-4")


def engines():
    """Module -> the name in it. The files are parsed and not imported: Ray takes its time."""
    found = {}
    for path in sorted(Path(fedkd.engines.__path__[0]).glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            name = getattr(node, "name", "")
            if name == path.stem or (isinstance(node, ast.ClassDef) and name.endswith("Engine")):
                found[path.stem] = name
    return found


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.ray if name == "ray" else ())
        for name in engines()
        if name != "sequential"
    ],
)
def engine(request):
    """Every engine but the sequential one, as it is by default."""
    module = importlib.import_module(f"fedkd.engines.{request.param}")
    found = getattr(module, engines()[request.param])
    ready = list(inspect.signature(found).parameters) == ["function", "task", "clients", "inputs"]
    made = found if ready else found()
    with made if hasattr(made, "__exit__") else contextlib.nullcontext(made) as opened:
        yield opened


every_algorithm = pytest.mark.parametrize("name", algorithms.names())


def small(name, optimizer="sgd", learning_rate=0.02):
    """An algorithm, all of whose training is short."""
    training = TrainingConfig(optimizer, learning_rate, weight_decay=1e-2, epochs=1, batch_size=4)
    kind = algorithms.get(name)
    return kind(**{f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)})


def rounds(algorithm, federation, engine, count=2):
    task, clients = federation.task, federation.clients
    return list(simulate(algorithm, task, clients, rounds=count, engine=engine))


def params_of(clients):
    return [dict(client.params) for client in clients]


def assert_same(result, expected, tolerance):
    for one, other in zip(tree_leaves(result), tree_leaves(expected), strict=True):
        if isinstance(other, torch.Tensor):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
        else:
            assert one == other


def assert_same_rounds(result, expected, tolerance):
    for one, other in zip(result, expected, strict=True):
        assert_same(params_of(one.clients), params_of(other.clients), tolerance)
        assert_same(one.server, other.server, tolerance)
        assert (one.cohort, one.rejected, one.ledger) == (other.cohort, {}, other.ledger)


def test_the_engines_are_found():
    assert {"sequential": "sequential", "batched": "batched"}.items() <= engines().items()


@every_algorithm
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_is_sequential_to_nine_digits(name, optimizer, family, tiny, double):
    federation = tiny([family], RAGGED, public=5)
    algorithm = small(name, optimizer)
    expected = rounds(algorithm, federation, sequential)
    for one, other in zip(expected[-1].clients, federation.clients, strict=True):
        for key, before in other.params.items():
            assert not torch.equal(one.params[key], before)  # else the comparison says nothing
    for chunk in (2, 50):
        assert_same_rounds(rounds(algorithm, federation, batched(chunk)), expected, 1e-9)


@every_algorithm
def test_batched_is_sequential_to_four_digits_in_float32(name, tiny):
    federation = tiny(["cnn-4-4"], RAGGED, public=5)
    algorithm = small(name, "momentum")
    expected = rounds(algorithm, federation, sequential)
    assert_same_rounds(rounds(algorithm, federation, batched(50)), expected, 1e-4)


@every_algorithm
def test_every_engine_is_sequential_with_three_architectures(engine, name, tiny, double):
    federation = tiny(sizes=(1, 2, 9, 4, 3, 6, 7))
    algorithm = small(name, "adam")
    expected = rounds(algorithm, federation, sequential, count=3)
    assert_same_rounds(rounds(algorithm, federation, engine, count=3), expected, 1e-9)


@every_algorithm
def test_every_engine_deploys_and_evaluates_as_sequential(engine, name, tiny, double):
    federation = tiny(sizes=(1, 2, 9, 4, 3))
    algorithm = small(name)
    task, test, counts = federation.task, federation.test, federation.label_counts
    last = rounds(algorithm, federation, sequential)[-1]
    expected = deployed(algorithm, task, last)
    result = deployed(algorithm, task, last, engine=engine)
    scores = evaluate(task, result, test, counts, engine)
    assert_same(params_of(result), params_of(expected), 1e-9)
    assert_same(dict(scores), dict(evaluate(task, expected, test, counts)), 1e-9)


def test_an_engine_gives_results_in_the_order_of_the_clients(engine, tiny):
    federation = tiny(sizes=(1, 2, 9, 4, 3, 6, 7))
    clients = federation.clients[::-1]

    def echo(predict, params, number):
        return {"number": number + 0 * next(iter(params.values())).sum()}

    inputs = [(torch.tensor(float(client.id)),) for client in clients]
    assert engine(echo, federation.task, [], []) == []
    results = engine(echo, federation.task, clients, inputs)
    assert [int(result["number"]) for result in results] == [6, 5, 4, 3, 2, 1, 0]


def test_what_clients_share_may_also_be_their_own(tiny, double):
    # The same numbers in one tensor or in one tensor a client: vmap has, or has not, an axis there.
    federation = tiny(["mlp-8"], RAGGED)
    task, clients = federation.task, federation.clients
    algorithm = small("fedmd")
    calls = []

    def record(function, task, clients, inputs):
        calls.append((function, inputs))
        return sequential(function, task, clients, inputs)

    rounds(algorithm, federation, record)
    function, inputs = calls[-1]  # the second round, in which there is a consensus to share
    assert len({id(received["consensus"]) for received, _, _ in inputs}) == 1
    own = [tree_map(copied, given) for given in inputs]
    some = [own[0], *inputs[1:]]
    expected = sequential(function, task, clients, inputs)
    for given in (inputs, own, some):
        assert_same(batched(50)(function, task, clients, given), expected, 1e-12)


def copied(leaf):
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def plus(predict, params, number):
    return {k: v + number for k, v in params.items()}


def test_numbers_that_differ_from_client_to_client_are_not_taken_for_the_first(tiny):
    federation = tiny(["mlp-8"], RAGGED)
    inputs = [(1.0,), (2.0,), (1.0,), (4.0,)]
    expected = sequential(plus, federation.task, federation.clients, inputs)
    assert_same(batched(50)(plus, federation.task, federation.clients, inputs), expected, 0)


def test_parameters_in_another_order_are_told_apart(tiny):
    # A square network: exchanged, its tensors would still fit.
    federation = tiny(["mlp-6-6"], RAGGED, shape=(1, 1, 6), classes=6)
    first, second, *rest = federation.clients
    turned = dict(reversed(second.params.items()))
    clients = [first, type(second)(second.id, second.group, turned, second.private), *rest]
    x = federation.test.x

    def answer(predict, params, x):
        return predict(params, x)

    inputs = [(x,)] * len(clients)
    expected = sequential(answer, federation.task, clients, inputs)
    assert isinstance(expected[0], Outputs)
    assert_same(batched(50)(answer, federation.task, clients, inputs), expected, 1e-5)


def test_an_engine_leaves_its_inputs_as_they_are(tiny):
    federation = tiny(["mlp-8"], RAGGED)
    before = tree_map(copied, params_of(federation.clients))
    rounds(small("fedmd"), federation, batched(50))
    assert_same(params_of(federation.clients), before, 0)


def test_the_padding_of_longer_neighbours_changes_nothing_at_all(tiny, double):
    # The client with one example, alone and beside one that has nine times its batches.
    federation = tiny(["mlp-8"], (1, 36))
    algorithm = small("local", "adam")
    (together,) = rounds(algorithm, federation, batched(2), count=1)
    alone = federation._replace(clients=federation.clients[:1])
    (apart,) = rounds(algorithm, alone, batched(2), count=1)
    assert_same(together.clients[0].params, apart.clients[0].params, 1e-15)


def test_a_chunk_without_clients_is_an_error():
    with pytest.raises(ValueError, match="at least one client, got 0"):
        batched(0)
