"""Training against torch.optim, and the two promises that engines rest on: draws and masks."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._pytree import tree_map

from kdcore.losses.response import cross_entropy
from kdcore.outputs import Outputs
from kdcore.training import stacked
from kdcore.training.loop import OPTIMIZERS, Examples, TrainingConfig, draw, fit, predict_logits
from kdcore.training.optimizers import adam, momentum, rule, sgd

TORCH = {
    "sgd": lambda w, lr, wd: torch.optim.SGD(w, lr, weight_decay=wd),
    "momentum": lambda w, lr, wd: torch.optim.SGD(w, lr, momentum=0.9, weight_decay=wd),
    "adam": lambda w, lr, wd: torch.optim.Adam(w, lr, weight_decay=wd),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0, widths=(4, 6, 3)):
    """Parameters of a perceptron, and the same as a torch module."""
    first, hidden, last = widths
    module = nn.Sequential(nn.Linear(first, hidden), nn.Tanh(), nn.Linear(hidden, last)).double()
    generator = stream(seed)
    for parameter in module.parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = values / 2
    return {k: v.detach().clone() for k, v in module.named_parameters()}, module


def predict(params, x):
    hidden = torch.tanh(F.linear(x, params["0.weight"], params["0.bias"]))
    return Outputs(F.linear(hidden, params["2.weight"], params["2.bias"]))


def loss(outputs, y):
    return cross_entropy(outputs.logits, y)


def examples(count, total=20, seed=0):
    generator = stream(seed)
    x = torch.randn(total, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (total,), generator=generator)
    return Examples(x, y, torch.randperm(total, generator=generator)[:count])


def assert_same(params, others, tolerance):
    assert params.keys() == others.keys()
    for key, value in params.items():
        torch.testing.assert_close(value, others[key], rtol=tolerance, atol=tolerance, msg=key)


# Optimisers


@every_optimizer
@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
def test_an_optimiser_is_that_of_torch_over_many_steps(optimizer, weight_decay):
    params, _ = network()
    weights = {k: v.clone().requires_grad_() for k, v in params.items()}
    theirs = TORCH[optimizer](weights.values(), 0.05, weight_decay)
    ours = rule(TrainingConfig(optimizer, 0.05, weight_decay))
    values = list(params.values())
    state, generator = ours.init(values), stream(1)
    for count in range(1, 201):
        gradients = [torch.randn(v.shape, generator=generator).double() for v in values]
        for weight, gradient in zip(weights.values(), gradients, strict=True):
            weight.grad = gradient.clone()
        ours.step(values, gradients, state, count)
        theirs.step()
    assert_same(params, {k: v.detach() for k, v in weights.items()}, 1e-12)


def test_the_settings_of_the_rules_are_those_of_torch():
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    weight, heavy = start.clone().requires_grad_(), start.clone().requires_grad_()
    theirs = torch.optim.Adam([weight], 0.1, betas=(0.5, 0.7), eps=1e-3)
    other = torch.optim.SGD([heavy], 0.1, momentum=0.5)
    ours, half = adam(0.1, betas=(0.5, 0.7), epsilon=1e-3), momentum(0.1, beta=0.5)
    one, two = [start.clone()], [start.clone()]
    state, velocity = ours.init(one), half.init(two)
    for count in range(1, 6):
        gradient = torch.tensor([float(count), -0.1], dtype=torch.float64)
        weight.grad, heavy.grad = gradient.clone(), gradient.clone()
        theirs.step()
        other.step()
        ours.step(one, [gradient], state, count)
        half.step(two, [gradient], velocity, count)
    assert_same({"w": one[0]}, {"w": weight.detach()}, 1e-13)
    assert_same({"w": two[0]}, {"w": heavy.detach()}, 1e-13)


def test_one_step_of_each_rule_by_hand():
    # SGD and momentum: g + wd w = 0.5 + 0.25 * 2 = 1; w - lr * 1 = 1.9
    # Adam's first step is lr, whatever the gradient's size
    for optimiser in (sgd(0.1, 0.25), momentum(0.1, 0.25), adam(0.1)):
        params = [torch.tensor([2.0])]
        optimiser.step(params, [torch.tensor([0.5])], optimiser.init(params), 1)
        assert params[0].item() == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sdg"}, "optimizer must be sgd, momentum or adam, got 'sdg'"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be > 0"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0 and finite, got -1.0"),
        ({"epochs": -1}, "epochs must be >= 0"),
        ({"batch_size": -1}, "batch_size must be >= 0, got -1"),
    ],
)
def test_settings_that_cannot_be_are_an_error_that_names_them(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


# Draws


@settings(deadline=None)
@given(
    count=st.integers(0, 20),
    epochs=st.integers(0, 4),
    width=st.integers(1, 25),
    seed=st.integers(0, 9),
)
def test_every_example_comes_once_per_epoch_and_none_is_dropped(count, epochs, width, seed):
    given = examples(count)
    batches = draw(given, TrainingConfig(epochs=epochs, batch_size=width), stream(seed))
    steps = -(-count // width)
    assert batches.order.shape == batches.mask.shape == (epochs * steps, width)
    assert batches.steps == epochs * steps
    assert batches.size.item() == count
    for epoch in range(epochs):
        part = slice(epoch * steps, (epoch + 1) * steps)
        index, mask = batches.order[part].flatten(), batches.mask[part].flatten()
        assert mask.tolist() == [1.0] * count + [0.0] * (steps * width - count)
        assert sorted(index[mask.bool()].tolist()) == sorted(given.rows.tolist())
        assert set(index.tolist()) <= set(given.rows.tolist())  # padding is of the client's own


def test_epochs_are_shuffled_anew_and_seeds_differ():
    batches = draw(examples(12), TrainingConfig(epochs=2, batch_size=12), stream(0))
    first, second = batches.order
    assert first.tolist() != second.tolist()
    again = draw(examples(12), TrainingConfig(epochs=2, batch_size=12), stream(0))
    other = draw(examples(12), TrainingConfig(epochs=2, batch_size=12), stream(1))
    assert torch.equal(again.order, batches.order)
    assert not torch.equal(other.order, batches.order)


def test_data_are_shared_and_not_copied():
    given = examples(3)
    batches = draw(given, TrainingConfig(), stream())
    assert batches.x is given.x
    assert batches.y is given.y


# Fit


@every_optimizer
@pytest.mark.parametrize("count", [1, 7, 12])
def test_fit_is_a_plain_loop_of_torch(optimizer, count):
    params, module = network()
    training = TrainingConfig(optimizer, 0.05, weight_decay=0.01, epochs=5, batch_size=4)
    batches = draw(examples(count), training, stream(3))
    result = fit(predict, params, batches, training, loss)

    theirs = TORCH[optimizer](module.parameters(), 0.05, 0.01)
    for index, mask in zip(batches.order, batches.mask, strict=True):
        rows = index[mask.bool()]
        theirs.zero_grad()
        F.cross_entropy(module(batches.x[rows]), batches.y[rows]).backward()
        theirs.step()
    assert_same(result, {k: v.detach() for k, v in module.named_parameters()}, 1e-12)


def test_targets_may_be_labels_numbers_or_distributions():
    given = examples(7)
    training = TrainingConfig(batch_size=4)
    params, _ = network()
    shares = torch.randn(20, 3, generator=stream(), dtype=torch.float64).softmax(-1)

    def squared(outputs, y):
        return (outputs.logits[:, 0] - y) ** 2

    def soft(outputs, y):
        return -(y * outputs.logits.log_softmax(-1)).sum(-1)

    for y, loss_of_y in ((given.y, loss), (given.x[:, 0], squared), (shares, soft)):
        batches = draw(replace(given, y=y), training, stream(3))
        first = batches._replace(order=batches.order[:1], mask=batches.mask[:1])
        result = fit(predict, params, first, training, loss_of_y)
        rows = batches.order[0]
        expected = torch.func.grad(
            lambda p, rows=rows, y=y, loss=loss_of_y: loss(
                predict(p, given.x[rows]), y[rows]
            ).mean()
        )(params)
        assert_same(result, {k: params[k] - 0.1 * expected[k] for k in params}, 1e-12)


@every_optimizer
def test_a_batch_of_padding_alone_changes_nothing_at_all(optimizer):
    params, _ = network()
    training = TrainingConfig(optimizer, 0.05, weight_decay=0.1, epochs=2, batch_size=4)
    batches = draw(examples(6), training, stream())
    result = fit(predict, params, batches, training, loss)
    after = fit(predict, params, batches.padded(9), training, loss)
    assert all(torch.equal(result[k], after[k]) for k in result)

    # also between others, where momentum and Adam's counter would be seen afterwards
    order = torch.tensor([4, 0, 5, 1, 6, 2, 3])
    padded = batches.padded(7)
    mixed = padded._replace(order=padded.order[order], mask=padded.mask[order])
    between = fit(predict, params, mixed, training, loss)
    assert all(torch.equal(result[k], between[k]) for k in result)


def test_padding_keeps_index_and_mask_and_adds_zeros():
    batches = draw(examples(6), TrainingConfig(batch_size=4), stream())
    padded = batches.padded(5)
    assert padded.steps == 5
    assert torch.equal(padded.order[:2], batches.order)
    assert torch.equal(padded.mask[:2], batches.mask)
    assert padded.mask[2:].sum() == 0


def test_an_example_of_somebody_else_is_never_touched_by_padding():
    # A NaN in row 0, which is not the client's: 0 * NaN would be NaN.
    x = torch.ones(4, 4, dtype=torch.float64)
    x[0] = torch.nan
    given = Examples(x, torch.zeros(4, dtype=torch.long), torch.tensor([1, 2, 3]))
    params, _ = network()
    training = TrainingConfig(batch_size=2)
    result = fit(predict, params, draw(given, training, stream()), training, loss)
    assert all(value.isfinite().all() for value in result.values())


@every_optimizer
@pytest.mark.parametrize("settings", [{"epochs": 0}, {}])
def test_nothing_to_train_on_is_no_training(optimizer, settings):
    params, _ = network()
    training = TrainingConfig(optimizer, weight_decay=0.1, **settings)
    batches = draw(examples(0 if not settings else 5), training, stream())
    result = fit(predict, params, batches, training, loss)
    assert all(torch.equal(result[k], params[k]) for k in params)


def test_fit_leaves_its_parameters_as_they_are():
    params, _ = network()
    before = {k: v.clone() for k, v in params.items()}
    training = TrainingConfig("adam")
    fit(predict, params, draw(examples(6), training, stream()), training, loss)
    assert all(torch.equal(params[k], before[k]) for k in params)


@every_optimizer
def test_vmap_over_fit_is_a_loop(optimizer):
    training = TrainingConfig(optimizer, 0.05, weight_decay=0.01, epochs=2, batch_size=4)
    starts = [network(seed)[0] for seed in range(3)]
    drawn = [draw(examples(count), training, stream(count)) for count in (1, 12, 5)]
    looped = [fit(predict, p, b, training, loss) for p, b in zip(starts, drawn, strict=True)]

    most = max(b.steps for b in drawn)
    assert most == 6
    padded = [b.padded(most) for b in drawn]
    index, mask = (torch.stack([getattr(b, key) for b in padded]) for key in ("order", "mask"))
    params = {k: torch.stack([p[k] for p in starts]) for k in starts[0]}

    def one(params, index, mask):
        return fit(predict, params, padded[0]._replace(order=index, mask=mask), training, loss)

    together = torch.func.vmap(one)(params, index, mask)
    for place, alone in enumerate(looped):
        assert_same({k: v[place] for k, v in together.items()}, alone, 1e-12)

    # steps of padding alone may also stand between others, elsewhere for each model
    orders = torch.tensor([[5, 2, 0, 3, 1, 4], [0, 1, 2, 3, 4, 5], [4, 0, 1, 5, 2, 3]])
    mixed = (table[torch.arange(3).unsqueeze(1), orders] for table in (index, mask))
    together = torch.func.vmap(one)(params, *mixed)
    mixed = [
        b._replace(order=b.order[o], mask=b.mask[o]) for b, o in zip(padded, orders, strict=True)
    ]
    for place, (start, batches) in enumerate(zip(starts, mixed, strict=True)):
        alone = fit(predict, start, batches, training, loss)
        assert_same({k: v[place] for k, v in together.items()}, alone, 1e-12)


# Small parts


@pytest.mark.parametrize("rows", [[], [3], [0, 5, 5, 19, 2]])
def test_logits_of_rows_are_those_of_all_at_once(rows):
    params, module = network()
    x = examples(0).x
    places = torch.tensor(rows, dtype=torch.long)
    result = predict_logits(predict, params, x, places, at_once=2)
    assert result.shape == (len(rows), 3)
    torch.testing.assert_close(result, module(x[places]).detach(), rtol=1e-12, atol=1e-12)


def test_logits_of_many_rows_take_few_at_a_time():
    sizes = []

    def spy(params, x):
        sizes.append(len(x))
        return Outputs(x)

    predict_logits(spy, {}, torch.zeros(1200, 2), torch.arange(1200))
    assert sizes == [500, 500, 200]


def test_a_row_that_is_none_has_logits_of_zero():
    params, _ = network()
    x = examples(0).x
    places = torch.tensor([4, -1, 0, -1])
    result = predict_logits(predict, params, x, places)
    alone = predict_logits(predict, params, x, torch.tensor([4, 0]))
    torch.testing.assert_close(result[[0, 2]], alone, rtol=1e-12, atol=1e-12)
    assert not result[[1, 3]].any()
    assert not predict_logits(predict, params, x, torch.tensor([-1, -1])).any()


# Stacks


@pytest.mark.parametrize("few", [1, 2, 12, 2000])
@pytest.mark.parametrize("own", ["x", "rows"])
def test_a_stack_predicts_what_each_of_its_models_wants(monkeypatch, few, own):
    monkeypatch.setattr(stacked, "AT_ONCE", few)
    params = {k: torch.stack([v, 2 * v, -v, v + 1]) for k, v in network()[0].items()}
    wanted = torch.tensor([[3, 5, 5, 1, 0], [-1, 2, 3, -1, -1], [-1] * 5, [7, -1, -1, -1, -1]])
    x = torch.stack([examples(0, seed=seed).x for seed in range(4)])
    x = x if own == "x" else x[0]

    def one(params, x, wanted):
        return predict_logits(predict, params, x, wanted, at_once=4)

    dims = (0, 0 if own == "x" else None, 0)
    together = torch.func.vmap(one, in_dims=dims)(params, x, wanted)
    for place, rows in enumerate(wanted):
        mine = {k: v[place] for k, v in params.items()}
        alone = one(mine, x[place] if own == "x" else x, rows)
        torch.testing.assert_close(together[place], alone, rtol=1e-12, atol=1e-12)


def test_a_loss_may_look_at_what_only_one_client_has():
    training = TrainingConfig(epochs=2, batch_size=4)
    params, _ = network()
    drawn = [draw(examples(5), training, stream(seed)) for seed in range(3)]
    weights = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5], [4.0, 0.0, 1.0]]).double()

    def weighted(outputs, y, weight):
        return weight[y] * cross_entropy(outputs.logits, y)

    def near_zero(params, y, weight):
        return weight.sum() * params["2.bias"].square().sum()

    def one(order, weight):
        batches = drawn[0]._replace(order=order)
        return fit(predict, params, batches, training, weighted, weight, penalty=near_zero)

    together = torch.func.vmap(one)(torch.stack([b.order for b in drawn]), weights)
    for place, batches in enumerate(drawn):
        alone = one(batches.order, weights[place])
        assert_same({k: v[place] for k, v in together.items()}, alone, 1e-12)
        plain = fit(predict, params, batches, training, loss)
        assert not torch.allclose(alone["2.weight"], plain["2.weight"])


@pytest.mark.parametrize("shared", ["x", "rows", "both", "params"])
def test_vmap_over_logits_is_a_loop(shared):
    params = {k: torch.stack([v, 2 * v, -v]) for k, v in network()[0].items()}
    x = torch.stack([examples(0, seed=seed).x for seed in range(3)])
    wanted = torch.tensor([[0, 5, 5, 1], [2, 2, 3, 19], [7, 8, 9, 0]])
    x = x[0] if shared in ("x", "both") else x
    wanted = wanted[0] if shared in ("rows", "both") else wanted
    params = {k: v[0] for k, v in params.items()} if shared == "params" else params
    dims = (None if shared == "params" else 0, x.dim() - 2 or None, wanted.dim() - 1 or None)
    dims = tuple(None if dim is None else 0 for dim in dims)

    def one(params, x, wanted):
        return predict_logits(predict, params, x, wanted, at_once=3)

    together = torch.func.vmap(one, in_dims=dims)(params, x, wanted)
    for place in range(3):
        given = [
            tree if dim is None else tree_map(lambda v: v[place], tree)  # noqa: B023
            for tree, dim in zip((params, x, wanted), dims, strict=True)
        ]
        torch.testing.assert_close(together[place], one(*given), rtol=1e-12, atol=1e-12)
