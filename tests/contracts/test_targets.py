"""Every algorithm on every target: it learns more than a constant says, or refuses in one line."""

import math
from dataclasses import dataclass, fields, replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from fedkd import algorithms
from fedkd.algorithms.fedavg import FedAvg
from fedkd.core import Client, Model, Task
from fedkd.engines.batched import batched
from fedkd.engines.ray.engine import RayEngine
from fedkd.engines.sequential import sequential
from fedkd.models import build
from fedkd.rounds import checkpoint
from fedkd.rounds.round import INSTEAD, deployed
from fedkd.rounds.synchronous import simulate
from fedkd.targets import CLASSES, LABELS, NO_LABEL, REAL, SEQUENCE, TARGETS
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig, predict_logits

TOKENS, LENGTH = 5, 6
OTHERS = [target for target in TARGETS.values() if target != CLASSES]
PAIRS = [(name, target) for name in algorithms.names() for target in OTHERS]
ABLE = [(n, t) for n, t in PAIRS if t.name in algorithms.get(n).properties.targets]
UNABLE = [pair for pair in PAIRS if pair not in ABLE]


def name_of(value):
    """What a test calls a target or an algorithm; None for a function, which pytest numbers."""
    return value if isinstance(value, str) else getattr(value, "name", None)


def table_of_pairs():
    """A model of sequences: what comes next, by the token before."""

    def init(dice):
        return {"next.weight": 0.1 * torch.randn(TOKENS + 1, TOKENS, generator=dice)}

    def predict(params, x):
        before = F.pad(x[:, :-1], (1, 0), value=TOKENS)
        return Outputs(params["next.weight"][before])

    return Model(init, predict)


def chains(count, dice):
    """Tokens of which each mostly follows from the one before; the ends are padding."""
    found = torch.randint(TOKENS, (count, LENGTH), generator=dice)
    for place in range(1, LENGTH):
        sure = torch.rand(count, generator=dice) < 0.8
        found[:, place] = torch.where(sure, (found[:, place - 1] + 1) % TOKENS, found[:, place])
    y = found.clone()
    y[: count // 2, -1] = NO_LABEL
    return found, y


@cache
def federation(target, sizes=(40, 24, 32), public=24, test=60):
    """A task, clients, and test examples."""
    dice = generator(0, "targets", target.name)
    count = sum(sizes) + public + test
    if target == SEQUENCE:
        x, y = chains(count, dice)
        models, width = {"pairs": table_of_pairs()}, TOKENS
    else:
        x = torch.randn(count, 6, generator=dice)
        y = x @ torch.randn(6, 3, generator=dice)
        y = (y - y.mean(0)) / y.std(0) if target == REAL else (y > 0.5).float()
        models, width = {name: build(name, (6,), 3) for name in ("mlp-8", "mlp-9-8")}, 3
    rows = torch.arange(count).split([*sizes, public, test])
    groups = [list(models)[i % len(models)] for i in range(len(sizes))]
    clients = [
        Client(i, group, models[group].init(generator(0, "client", i)), Examples(x, y, rows[i]))
        for i, group in enumerate(groups)
    ]
    shared, shape = rows[-2], tuple(x.shape[1:])
    places = LENGTH if target == SEQUENCE else 0
    task = Task(models, width, x[shared], shape, y[shared], few=x[:2], target=target, places=places)
    return task, clients, Examples(x, y, rows[-1])


def quick(name, target):
    """An algorithm that trains for a short while."""
    training = TrainingConfig("adam", 0.03, epochs=4, batch_size=6)
    kind = algorithms.get(name)
    short = {f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)}
    plain = {"aggregation": "sa"} if (name, target) == ("dsfl", REAL) else {}
    return kind(**short | plain)


def runs(name, target, rounds=3, **how):
    task, clients, _ = federation(target)
    return list(simulate(quick(name, target), task, clients, rounds=rounds, **how))


def first_metric(target, outputs, y):
    """The metric that models are compared by."""
    return float(next(iter(target.metrics(target.tally(outputs, y).sum(dim=0)).values())))


def reached(name, target, current):
    """The first metric of each client's model in use, on the test examples."""
    task, _, test = federation(target)
    used = deployed(quick(name, target), task, current)
    said = [predict_logits(task.models[c.group].predict, c.params, test.x, test.rows) for c in used]
    return [first_metric(target, outputs, test.y[test.rows]) for outputs in said]


def constant(target):
    """What the best answer that looks at nothing reaches: mean, majority, shares of tokens."""
    _, clients, test = federation(target)
    y, own = test.y[test.rows], clients[0].private.y[torch.cat([c.private.rows for c in clients])]
    if target == SEQUENCE:
        share = torch.bincount(own[own != NO_LABEL], minlength=TOKENS).double()
        outputs = (share / share.sum()).log().expand(*y.shape, TOKENS)
    else:
        mean = own.mean(dim=0)
        outputs = (mean if target == REAL else mean - 0.5).expand_as(y)
    return first_metric(target, outputs, y)


def test_a_constant_reaches_what_it_should():
    # The spread of y, 1; of labels that under half have, nothing; of even tokens, their number.
    assert constant(REAL) == pytest.approx(1.0, abs=0.2)
    assert constant(LABELS) == 0.0
    assert constant(SEQUENCE) == pytest.approx(TOKENS, abs=0.3)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(*pair, marks=[] if pair[0] in ("fedmd", "local") else [pytest.mark.slow])
        for pair in ABLE
    ],
    ids=name_of,
)
def test_it_learns_more_than_a_constant_says(name, target):
    *_, last = runs(name, target)
    assert not last.rejected
    least = constant(target)
    for value in reached(name, target, last):
        assert value < 0.8 * least if target.lower else value > least + 0.3


@pytest.mark.parametrize(("name", "target"), UNABLE, ids=name_of)
def test_or_it_says_before_the_run_that_it_cannot(name, target):
    with pytest.raises(ValueError, match=r"\bone class\b.*such as") as refused:
        runs(name, target)
    said = str(refused.value)
    assert algorithms.get(name).__name__ in said
    assert target.words in said
    assert "\n" not in said


def test_a_training_of_ones_own_is_for_classes_where_nothing_is_said():
    @dataclass(frozen=True)
    class Own(FedAvg):
        def client_update(self, predict, params, received, private, public):
            return super().client_update(predict, params, received, private, public)

    @dataclass(frozen=True)
    class Said(Own):
        properties = FedAvg.properties

    task, clients, _ = federation(REAL)
    with pytest.raises(ValueError, match="Own needs one class"):
        next(simulate(Own(), task, clients, rounds=1))
    assert not next(simulate(Said(), task, clients, rounds=1)).rejected


def test_the_algorithms_named_instead_learn_every_target():
    names = INSTEAD.replace(" or", ",").split(", ")
    assert len(names) == 3
    assert {(n, t) for n in names for t in OTHERS} <= set(ABLE)


@pytest.fixture
def in_float64():
    """Numbers in which a rounding stays one: FedKD divides by losses, which makes it large."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    federation.cache_clear()
    yield
    torch.set_default_dtype(before)
    federation.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(("name", "target"), ABLE, ids=name_of)
def test_engines_agree(name, target):
    *_, alone = runs(name, target, rounds=2)
    *_, together = runs(name, target, rounds=2, engine=batched())
    for one, other in zip(alone.clients, together.clients, strict=True):
        for key, value in one.params.items():
            torch.testing.assert_close(other.params[key], value, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("target", OTHERS, ids=name_of)
def test_a_run_goes_on_from_a_checkpoint(target, tmp_path):
    task, clients, _ = federation(target)
    whole = runs("fedmd", target)
    checkpoint.save(tmp_path, whole[0], whole[0].ledger, "this run")
    before, _ = checkpoint.load(tmp_path, clients, "this run", task.device)
    *_, last = runs("fedmd", target, after=before)
    for one, other in zip(whole[-1].clients, last.clients, strict=True):
        assert all(torch.equal(value, other.params[key]) for key, value in one.params.items())


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("target", OTHERS, ids=name_of)
def test_any_number_of_actors_gives_the_same_bits(target):
    found = []
    for actors in (1, 2):
        with RayEngine(actors) as engine:
            *_, last = runs("fedmd", target, rounds=2, engine=engine)
            found.append([dict(client.params) for client in last.clients])
    *_, alone = runs("fedmd", target, rounds=2)
    for one, other, client in zip(*found, alone.clients, strict=True):
        for key, value in client.params.items():
            assert torch.equal(one[key], other[key])
            torch.testing.assert_close(one[key], value, rtol=1e-4, atol=1e-5)


def test_what_is_no_distribution_is_not_sharpened():
    task, clients, _ = federation(REAL)
    algorithm = replace(quick("dsfl", REAL), aggregation="era")
    with pytest.raises(ValueError, match="take aggregation sa"):
        next(simulate(algorithm, task, clients, rounds=1))


def test_logits_are_exchanged_of_classes_alone():
    task, clients, _ = federation(REAL)
    algorithm = replace(quick("fedmd", REAL), exchange="logits")
    with pytest.raises(ValueError, match="leave out the setting exchange"):
        next(simulate(algorithm, task, clients, rounds=1))


def test_messages_have_the_shape_of_predictions():
    for target, shape, key in (
        (REAL, (24, 3), "values"),
        (LABELS, (24, 3), "probabilities"),
        (SEQUENCE, (24, LENGTH, TOKENS), "probabilities"),
    ):
        (current,) = runs("fedmd", target, rounds=1)
        assert {u.payload[key].shape for u in current.uploads.values()} == {shape}
        assert current.ledger.up[key] == 3 * 4 * math.prod(shape)


@pytest.mark.parametrize(
    ("target", "change", "reason"),
    [
        (REAL, lambda v: v * 1e6, "times what is usual"),
        (REAL, lambda v: v[:, :2], "has shape"),
        (LABELS, lambda v: v + 1, "1 at most"),
        (LABELS, lambda v: v - 1, "below 0"),
        (SEQUENCE, lambda v: v + 1, "no distribution"),
    ],
    ids=name_of,
)
def test_what_is_no_prediction_is_turned_away(target, change, reason):
    def liar(function, task, clients, inputs):
        (params, upload), *rest = sequential(function, task, clients, inputs)
        lie = {key: change(value) for key, value in upload.payload.items()}
        return [(params, upload._replace(payload=lie)), *rest]

    (current,) = runs("fedmd", target, rounds=1, engine=liar)
    assert reason in current.rejected[0]
    assert list(current.rejected) == [0]


@pytest.mark.parametrize(
    ("target", "wrong", "reason"),
    [
        (REAL, lambda y: y[:, 0], "expected real numbers (N, 3)"),
        (REAL, lambda y: y / 0, "NaN or infinite"),
        (LABELS, lambda y: 2 * y, "expected 0 and 1"),
        (SEQUENCE, lambda y: y.float(), "expected whole numbers (N, 6)"),
        (SEQUENCE, lambda y: y + 9, "labels are"),
    ],
    ids=name_of,
)
def test_targets_that_are_none_are_refused(target, wrong, reason):
    task, clients, test = federation(target)
    y = wrong(test.y)
    others = [replace(c, private=Examples(c.private.x, y, c.private.rows)) for c in clients]
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        next(simulate(quick("local", target), task, others, rounds=1))
    assert reason in str(refused.value)
