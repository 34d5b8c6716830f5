"""What a network keeps beside its weights: through the loop, through a stack, never optimised."""

import pytest
import torch

from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import quantised, seeing
from kdcore.training.loop import (
    OPTIMIZERS,
    Examples,
    Network,
    TrainingConfig,
    draw,
    fit,
    predict_logits,
    supervised,
)
from kdcore.training.stacked import changed, learning, weights

SIZES = (9, 3, 1)  # 3, 1 and 1 mini-batches of four


def plain(params, x):
    return Outputs(x @ params["w"])


def learn(params, x):
    """It counts its steps, which scale its logits, and sums the first feature of what it saw."""
    seen = params["~seen"] + x[:, 0].sum()
    logits = (x @ params["w"]) * (1 + 0.1 * params["~steps"])
    return Outputs(logits), {"~steps": params["~steps"] + 1, "~seen": seen.detach()}


def counting(least=1):
    stack = torch.func.vmap(plain, in_dims=(0, 0))
    return Network(plain, stack, learn=learn, least=least)


def start(seed=0):
    w = torch.randn(3, 2, generator=generator(seed, "w"))
    return {"~steps": torch.tensor(0), "~seen": torch.tensor(0.0), "w": w}


def batches_of(count, training, seed=0):
    x = torch.randn(count, 3, generator=generator(seed, "x"))
    y = torch.arange(count) % 2
    return draw(Examples(x, y, torch.arange(count)), training, generator(seed, "order"))


def test_state_is_handed_on_from_step_to_step(double):
    training = TrainingConfig("sgd", 0.1, epochs=2, batch_size=4)
    batches = batches_of(9, training)
    found = fit(counting(), start(), batches, training, supervised)
    w, seen = start()["w"].clone().requires_grad_(), 0.0
    for step, (order, mask) in enumerate(zip(batches.order, batches.mask, strict=True)):
        x, y = batches.x[order[mask]], batches.y[order[mask]]
        loss = torch.nn.functional.cross_entropy((x @ w) * (1 + 0.1 * step), y)
        (slope,) = torch.autograd.grad(loss, w)
        w, seen = (w - 0.1 * slope).detach().requires_grad_(), seen + x[:, 0].sum()
    assert list(found) == ["~steps", "~seen", "w"]
    assert int(found["~steps"]) == 6
    torch.testing.assert_close(found["w"], w.detach())
    torch.testing.assert_close(found["~seen"], seen)


def test_what_is_given_is_left_as_it_is_and_not_handed_back():
    training = TrainingConfig("adam", 0.1, epochs=0, batch_size=4)
    before = start()
    after = fit(counting(), before, batches_of(3, training), training, supervised)
    assert all(torch.equal(after[name], before[name]) for name in before)
    after["~seen"].add_(1)
    assert float(before["~seen"]) == 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_stack_is_a_loop_for_state_too(optimizer, double):
    training = TrainingConfig(optimizer, 0.05, weight_decay=0.01, epochs=2, batch_size=4)

    def exact(params, x):  # as `learn`, without what padding would change
        logits = (x @ params["w"]) * (1 + 0.1 * params["~steps"])
        return Outputs(logits), {"~steps": params["~steps"] + 1, "~seen": params["~seen"] + 2}

    network = Network(plain, torch.func.vmap(plain), learn=exact)
    alone = [batches_of(count, training, seed) for seed, count in enumerate(SIZES)]
    longest = max(b.steps for b in alone)
    table = [torch.nn.functional.pad(b.x, (0, 0, 0, 9 - len(b.x))) for b in alone]
    labels = [torch.nn.functional.pad(b.y, (0, 9 - len(b.y))) for b in alone]
    padded = [
        b.padded(longest)._replace(x=x, y=y) for b, x, y in zip(alone, table, labels, strict=True)
    ]
    together = type(alone[0])(*map(torch.stack, zip(*padded, strict=True)))
    params = [start(seed) for seed in range(len(SIZES))]
    stack = {name: torch.stack([p[name] for p in params]) for name in params[0]}

    def one(params, batches):
        return fit(network, params, batches, training, supervised)

    found = torch.func.vmap(one)(stack, together)
    for k, (mine, batches) in enumerate(zip(params, alone, strict=True)):
        for name, value in one(mine, batches).items():
            torch.testing.assert_close(found[name][k], value)


def test_mini_batches_too_small_to_learn_from_are_left_out():
    training = TrainingConfig("sgd", 0.1, epochs=1, batch_size=4)
    batches = batches_of(9, training)  # of 4, 4 and 1
    found = fit(counting(least=2), start(), batches, training, supervised)
    assert int(found["~steps"]) == 2
    assert int(fit(counting(), start(), batches, training, supervised)["~steps"]) == 3


def test_a_penalty_sees_weights_alone():
    training = TrainingConfig("sgd", 0.1, epochs=1, batch_size=4)
    names = []

    def penalty(params, y):
        names.append(list(params))
        return torch.zeros(())

    fit(counting(), start(), batches_of(3, training), training, supervised, penalty=penalty)
    assert names == [["w"]]


def test_a_network_seen_through_a_change_learns_as_before():
    params, x = start(), torch.randn(4, 3)
    views = seeing(counting(), 1)
    outputs, fresh = learning(views)(params, (torch.zeros(4, 3), x))
    assert torch.equal(outputs.logits, x @ params["w"])
    assert int(fresh["~steps"]) == 1
    rounded = quantised(counting(), 2)
    params["~table"] = torch.full((2, 2), 0.3)
    params["~table"][0, 0] = 1.0  # would be rounded, were it a weight
    outputs, fresh = learning(rounded)(params, x)
    assert len(rounded(params, x).logits.unique()) > 1
    assert int(fresh["~steps"]) == 1
    assert learning(changed(plain, lambda form: form))(params, x)[1] == {}


def test_several_inputs_are_drawn_and_predicted():
    def both(params, x):
        return Outputs(x[0] @ params["w"] + x[1].to(params["w"].dtype))

    x = torch.randn(7, 3), torch.randint(5, (7, 2))
    training = TrainingConfig("sgd", 0.1, epochs=1, batch_size=4)
    rows = torch.tensor([5, 1, 3])
    batches = draw(Examples(x, torch.arange(7) % 2, rows), training, generator(0, "order"))
    params = weights(start())
    trained = fit(both, params, batches, training, supervised)
    one, other = (table[[int(i) for i in batches.order[0, :3]]] for table in x)
    w = params["w"].clone().requires_grad_()
    y = batches.y[batches.order[0, :3]]
    torch.nn.functional.cross_entropy(one @ w + other, y).backward()
    torch.testing.assert_close(trained["w"], params["w"] - 0.1 * w.grad)
    wanted = torch.tensor([2, -1, 0])
    found = predict_logits(both, params, x, wanted)
    torch.testing.assert_close(found[0], x[0][2] @ params["w"] + x[1][2])
    assert not found[1].any()
    stack = {"w": torch.stack([params["w"], 2 * params["w"]])}
    two = torch.func.vmap(lambda p: predict_logits(both, p, x, wanted))(stack)
    torch.testing.assert_close(two[0], found)
