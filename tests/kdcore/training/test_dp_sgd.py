"""DP-SGD: by numbers that a person can derive, and the stack against a plain loop over examples."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils._pytree import tree_map

from kdcore.losses.response import cross_entropy
from kdcore.outputs import Outputs
from kdcore.training import dp_sgd, stacked
from kdcore.training.batches import Batches, Examples, draw
from kdcore.training.loop import STATE, Network, fit
from kdcore.training.optimizers import ByExample, Clipping, Product, TrainingConfig


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def taken(*steps, records, x, y, seed=0):
    """Mini-batches as they are given, row by row."""
    width = max(1, *map(len, steps))
    order = torch.tensor([[*rows, *[0] * (width - len(rows))] for rows in steps])
    mask = torch.tensor([[place < len(rows) for place in range(width)] for rows in steps])
    noise = torch.randint(2**62, (len(steps),), generator=stream(seed))
    return Batches(x, y, order, mask, torch.tensor(records), noise, torch.arange(records))


# One parameter: the loss of an example is w x, and its gradient x.

X = torch.tensor([[3.0], [-0.5], [0.25], [7.0]], dtype=torch.float64)


def one_number(params, x):
    return Outputs(x * params["w"])


def product(outputs, y):
    return outputs.logits.sum(dim=-1)


def one_by_hand(params, x):
    return Outputs(torch.einsum("kbd,kd->kbd", x.expand(len(params["w"]), -1, -1), params["w"]))


def slope_by_hand(params, x, outputs, upstream):
    return {"w": ByExample(upstream.logits * x)}


FORMS = {
    "by example": one_number,
    "by hand": Network(one_number, one_by_hand, slope_by_hand),
}
every_form = pytest.mark.parametrize("predict", FORMS.values(), ids=FORMS)


def moved(predict, training, batches, stack):
    """By how much w is moved from 0, alone or as the second of a stack."""
    start = {"w": torch.zeros(1, dtype=torch.float64)}
    if not stack:
        return fit(predict, start, batches, training, product)["w"].item()

    def one(number, noise):
        own = batches._replace(noise=noise)
        return (
            fit(predict, start | {"w": start["w"] + number}, own, training, product)["w"] - number
        )

    numbers = torch.tensor([[5.0], [0.0]], dtype=torch.float64)
    seeds = torch.stack([batches.noise + 1, batches.noise])
    return torch.func.vmap(one)(numbers, seeds)[1].item()


@pytest.mark.parametrize("stack", [False, True])
@every_form
def test_examples_are_clipped_summed_and_divided_by_how_many_are_expected(predict, stack):
    training = TrainingConfig(learning_rate=0.5, batch_size=2, privacy=Clipping(1.0, 0.0))
    # 3 is cut to 1, the others stay: (1 - 0.5 + 0.25) / 2; the mean's norm is below 1 in any case.
    three = taken([0, 1, 2], records=4, x=X, y=X)
    assert moved(predict, training, three, stack) == pytest.approx(-0.5 * 0.75 / 2)
    # One example where two are expected is not divided by one.
    assert moved(predict, training, taken([0], records=4, x=X, y=X), stack) == -0.5 * 1 / 2
    # Where there is but one record, one is expected.
    assert moved(predict, training, taken([0], records=1, x=X, y=X), stack) == -0.5


@pytest.mark.parametrize("stack", [False, True])
@every_form
def test_weight_decay_is_outside_of_clipping_and_noise(predict, stack):
    decayed = TrainingConfig("momentum", 0.5, weight_decay=0.1, privacy=Clipping(1.0, 0.0))
    two = taken([0], [3], records=1, x=X, y=X)
    # w1 = -.5; then v = .9 + (1 - .1 x .5) and w2 = -.5 - .5 v
    assert moved(predict, decayed, two, stack) == pytest.approx(-0.5 - 0.5 * (0.9 + 0.95))


@pytest.mark.parametrize("stack", [False, True])
@every_form
def test_a_step_that_takes_nobody_is_a_step_of_noise(predict, stack):
    training = TrainingConfig(learning_rate=1.0, batch_size=2, privacy=Clipping(3.0, 0.5))
    batches = taken([], [], records=4, x=X, y=X)
    drawn = [torch.randn(1, generator=stream(int(s)), dtype=torch.float64) for s in batches.noise]
    expected = -sum(0.5 * 3.0 * float(one) / 2 for one in drawn)
    assert moved(predict, training, batches, stack) == pytest.approx(expected)
    assert moved(predict, training, batches.padded(5), stack) == pytest.approx(expected)


# Many parameters, and no gradient: what is moved is noise.

MANY = 20_000


def noise_of(training, batches, stack):
    """By how much 20,000 parameters, on which nothing depends, are moved, over the rate.

    Of a stack, those of the second of two models.
    """
    start = {"w": torch.zeros(1), "more": torch.zeros(MANY)}
    if not stack:
        after = fit(one_number, start, batches, training, product)
        return after["more"] / training.learning_rate

    def one(params, noise):
        own = batches._replace(noise=noise)
        return fit(one_number, params, own, training, product)["more"]

    seeds = torch.stack([batches.noise + 1, batches.noise])
    both = tree_map(lambda v: torch.stack([v, v]), start)
    return torch.func.vmap(one)(both, seeds)[1] / training.learning_rate


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_noise_has_the_std_of_the_sum_over_the_expected_batch_anew_at_each_step(steps, stack):
    training = TrainingConfig(learning_rate=0.1, batch_size=10, privacy=Clipping(2.0, 3.0))
    batches = taken(*[[0, 1]] * steps, records=40, x=X.float(), y=X.float())
    noise = noise_of(training, batches, stack)
    wanted = 2.0 * 3.0 / 10 * math.sqrt(steps)  # the same noise twice would add up, not its square
    # The standard error of a std of N numbers is std / sqrt(2 N) = 0.5 %; of the mean 0.7 % of it.
    assert noise.std().item() == pytest.approx(wanted, rel=0.025)
    assert abs(noise.mean().item()) < 0.035 * wanted


def test_two_clients_of_a_stack_have_noise_of_their_own():
    training = TrainingConfig(learning_rate=1.0, batch_size=1, steps=3, privacy=Clipping(1.0, 1.0))
    own = Examples(X.float(), X.float(), torch.arange(4))
    drawn = [draw(own, training, stream(seed)) for seed in (1, 2)]
    assert not set(drawn[0].noise.tolist()) & set(drawn[1].noise.tolist())
    start = {"w": torch.zeros(2, 1), "more": torch.zeros(2, MANY)}
    same = taken([0], records=4, x=X.float(), y=X.float())
    seeds = torch.stack([one.noise[:1] for one in drawn])

    def one(params, noise):
        return fit(one_number, params, same._replace(noise=noise), training, product)["more"]

    first, second = torch.func.vmap(one)(start, seeds)
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1].item()
    assert abs(correlation) < 0.035  # five standard errors


def test_models_that_share_their_mini_batches_are_not_given_the_same_noise():
    training = TrainingConfig(privacy=Clipping(1.0, 1.0))
    batches = taken([0, 1], records=4, x=X, y=X)
    start = {"w": torch.zeros(2, 1, dtype=torch.float64)}
    with pytest.raises(ValueError, match="would share their noise"):
        torch.func.vmap(lambda p: fit(one_number, p, batches, training, product))(start)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
@pytest.mark.parametrize("stack", [False, True], ids=["alone", "stack"])
@every_form
def test_a_gradient_that_no_factor_makes_small_moves_nothing_by_more_than_the_norm(
    predict, stack, value
):
    training = TrainingConfig(learning_rate=1.0, batch_size=2, privacy=Clipping(1.0, 0.0))
    x = torch.cat([X[:3], torch.tensor([[value]], dtype=torch.float64)])
    with_it = moved(predict, training, taken([2, 3], records=4, x=x, y=x), stack)
    without = moved(predict, training, taken([2], records=4, x=x, y=x), stack)
    assert without == -0.125
    assert abs(with_it - without) <= 1.0 / 2
    left_out = moved(predict, training, taken([2], [], records=4, x=x[[3, 1, 2, 0]], y=x), stack)
    assert left_out == without  # nor does it by standing in the place of padding


# A stack against the plain loop.


def network(seed=0, widths=(4, 6, 3)):
    first, hidden, last = widths
    shapes = {"a.weight": (hidden, first), "a.bias": (hidden,)}
    shapes |= {"b.weight": (last, hidden), "b.bias": (last,)}
    generator = stream(seed)
    return {n: torch.randn(s, generator=generator, dtype=torch.double) for n, s in shapes.items()}


def perceptron(params, x):
    hidden = torch.tanh(F.linear(x, params["a.weight"], params["a.bias"]))
    return Outputs(F.linear(hidden, params["b.weight"], params["b.bias"]), (hidden,))


def backward(params, x, outputs, upstream):
    hidden = outputs.hidden[0]
    last = upstream.logits
    first = (last @ params["b.weight"]) * (1 - hidden.square())
    found = {"b.weight": Product(last, hidden), "b.bias": ByExample(last)}
    return found | {"a.weight": Product(first, x), "a.bias": ByExample(first)}


BY_HAND = Network(perceptron, torch.func.vmap(perceptron), backward)
SIZES = (9, 1, 14, 5)


def drawn_for(training, sizes=SIZES):
    generator = stream(5)
    x = torch.randn(40, 4, generator=generator, dtype=torch.double)
    y = torch.randint(3, (40,), generator=generator)
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    each = [
        Examples(x, y, torch.arange(first, first + n))
        for first, n in zip(starts, sizes, strict=True)
    ]
    return [draw(one, training, stream(k)) for k, one in enumerate(each)]


def in_a_stack(function, params, batches):
    """A function of parameters and batches for all clients at once, as an engine does it."""
    wide, steps, most = (
        max(f(b) for b in batches)
        for f in (lambda b: b.order.shape[1], lambda b: b.steps, lambda b: len(b.own))
    )
    padded = [b.padded(steps) for b in batches]
    tables = [
        b._replace(
            order=F.pad(b.order, (0, wide - b.order.shape[1])),
            mask=F.pad(b.mask, (0, wide - b.mask.shape[1])),
            own=F.pad(b.own, (0, most - len(b.own)), value=-1),
        )
        for b in padded
    ]
    x, y = batches[0].x, batches[0].y
    bare = [b._replace(x=b.size, y=b.size) for b in tables]
    together = tree_map(lambda *v: torch.stack(v), *bare)
    stack = tree_map(lambda *v: torch.stack(v), *params)
    found = torch.func.vmap(lambda p, b: function(p, b._replace(x=x, y=y)))(stack, together)
    return [tree_map(lambda v: v[k], found) for k in range(len(params))]  # noqa: B023


def near_the_start(params, y, start):
    assert len(y) == 0  # a penalty sees no example
    return 0.3 * sum((params[name] - value).square().sum() for name, value in start.items())


@pytest.mark.parametrize("penalty", [None, near_the_start], ids=["plain", "penalty"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("predict", [perceptron, BY_HAND], ids=["by example", "by hand"])
def test_a_stack_trains_as_the_plain_loop_does(predict, optimizer, penalty):
    training = TrainingConfig(
        optimizer, 0.1, weight_decay=0.02, epochs=3, batch_size=2, privacy=Clipping(0.7, 0.6)
    )
    batches = drawn_for(training)
    params = [network(seed) for seed in range(len(batches))]
    assert len({b.order.shape for b in batches}) > 2
    assert any(not b.mask.any(dim=1).all() for b in batches)

    def one(own, mine):
        def loss(outputs, y, start):
            return cross_entropy(outputs.logits, y)

        return fit(predict, own, mine, training, loss, params[0], penalty=penalty)

    alone = [one(*pair) for pair in zip(params, batches, strict=True)]
    for found, wanted, start in zip(in_a_stack(one, params, batches), alone, params, strict=True):
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10)
            assert not torch.equal(value, start[name])


def test_a_penalty_is_added_behind_clipping_and_noise():
    training = TrainingConfig(learning_rate=0.5, privacy=Clipping(0.01, 0.0))
    start = {"w": torch.tensor([2.0], dtype=torch.float64)}
    batches = taken([], records=4, x=X, y=X)

    def pull(params, y):
        return (params["w"] ** 2).sum()  # its gradient, 4, is four hundred times the norm

    after = fit(one_number, start, batches, training, product, penalty=pull)
    assert after["w"].item() == 2.0 - 0.5 * 4.0


def test_a_layer_that_is_used_twice_is_clipped_by_its_whole_gradient():
    """The factors of two uses are rows of one product; ghost norms of these would be too small."""

    def twice(params, x):
        return Outputs(x @ params["w"].mT + (2 * x) @ params["w"].mT)

    def by_hand(params, x, outputs, upstream):
        left = torch.cat([upstream.logits, upstream.logits], dim=1)
        return {"w": Product(left, torch.cat([x, 2 * x], dim=1).expand(len(left), -1, -1))}

    form = Network(twice, twice, by_hand)
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    training = TrainingConfig(learning_rate=1.0, batch_size=1, privacy=Clipping(1.0, 0.0))
    batches = taken([0], records=1, x=x, y=x)
    start = {"w": torch.zeros(2, 1, 2, dtype=torch.float64)}

    def one(params, noise):
        return fit(form, params, batches._replace(noise=noise), training, product)["w"]

    found = torch.func.vmap(one)(start, torch.tensor([[1], [2]]))
    wanted = torch.tensor([[-0.6, -0.8]], dtype=torch.float64)  # 3 x, cut to the norm 1
    torch.testing.assert_close(found, torch.stack([wanted, wanted]))
    gradients = by_hand(start, x.unsqueeze(0), None, Outputs(torch.ones(2, 1, 1)))
    assert not dp_sgd.apart(gradients, 1)
    assert not dp_sgd.apart({"w": torch.zeros(2, 1, 2)}, 1)


# Refusals


def test_a_loss_that_couples_examples_is_refused():
    training = TrainingConfig(batch_size=4, privacy=Clipping(1.0, 1.0))
    batches = drawn_for(training)

    def centred(outputs, y):
        return (outputs.logits - outputs.logits.mean(dim=0)).square().mean(dim=1)

    def weighed(outputs, y):  # through a number that has no gradient
        hard = cross_entropy(outputs.logits, y)
        return hard / hard.detach().max()

    for loss in (centred, weighed):

        def one(own, mine, loss=loss):
            return fit(perceptron, own, mine, training, loss)

        with pytest.raises(ValueError, match="couples the examples of a mini-batch"):
            one(network(), batches[0])
        with pytest.raises(ValueError, match="couples the examples of a mini-batch"):
            in_a_stack(one, [network(seed) for seed in range(len(SIZES))], batches)


def test_a_loss_that_couples_unseen_reaches_no_other_example():
    """Whether one example is among the hardest depends on others: a swap of one may not show it."""
    training = TrainingConfig(batch_size=6, steps=6, privacy=Clipping(0.1, 0.0))

    def hardest(outputs, y):
        each = cross_entropy(outputs.logits, y)
        return each * (each >= each.detach().topk(max(1, len(each) // 2)).values[-1])

    def one(own, mine):
        return fit(BY_HAND, own, mine, training, hardest)

    batches, params = drawn_for(training, (12, 11)), [network(4), network(5)]
    alone = [one(*pair) for pair in zip(params, batches, strict=True)]
    for found, wanted in zip(in_a_stack(one, params, batches), alone, strict=True):
        torch.testing.assert_close(found, wanted)


def test_statistics_of_mini_batches_are_refused():
    training = TrainingConfig(batch_size=4, privacy=Clipping(1.0, 1.0))
    params = {f"{STATE}mean": torch.zeros(3), **network()}
    with pytest.raises(ValueError, match=f"keeps statistics of its mini-batches .{STATE}mean"):
        fit(perceptron, params, drawn_for(training)[0], training, product)


def test_batches_are_drawn_with_privacy_if_and_only_if_training_has_it():
    private = TrainingConfig(batch_size=4, privacy=Clipping(1.0, 1.0))
    plain = replace(private, privacy=None)
    for drawn, used in ((private, plain), (plain, private)):
        with pytest.raises(ValueError, match="draw them with the same TrainingConfig"):
            fit(perceptron, network(), drawn_for(drawn)[0], used, product)


def test_many_gradients_are_formed_a_few_models_at_a_time(monkeypatch):
    training = TrainingConfig(epochs=2, batch_size=4, privacy=Clipping(0.5, 0.0))
    batches = drawn_for(training)
    params = [network(seed) for seed in range(len(batches))]

    def one(own, mine):
        return fit(perceptron, own, mine, training, lambda o, y: cross_entropy(o.logits, y))

    whole = in_a_stack(one, params, batches)
    monkeypatch.setattr(stacked, "GRADIENTS", 1)
    for found, wanted in zip(in_a_stack(one, params, batches), whole, strict=True):
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)
