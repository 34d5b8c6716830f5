import math

import torch
from torch import tensor

from kdcore.losses.logarithms import divergence, log_mean, negative_entropy, times_log

NEVER = -math.inf
HALVES = tensor([0.5, 0.5]).log()


def slope(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def test_nothing_times_the_logarithm_of_nothing_is_nothing():
    weight, log = tensor([0.0, 0.0, 2.0, 2.0]), tensor([NEVER, -3.0, NEVER, -3.0])
    assert times_log(weight, log).tolist() == [0, 0, NEVER, -6]
    assert slope(lambda x: times_log(weight, x), log).tolist() == [0, 0, 2, 2]
    assert times_log(weight, -log).tolist() == [0, 0, math.inf, 6]


def test_a_divergence_is_infinite_where_the_second_alone_rules_something_out():
    sure = tensor([[0.0, NEVER]])
    torch.testing.assert_close(divergence(sure, HALVES[None]), tensor([math.log(2)]))
    assert divergence(HALVES[None], sure).tolist() == [math.inf]
    assert divergence(sure, sure).tolist() == [0]
    # e^-200 is 0 in float32, and still not nothing.
    assert divergence(tensor([[0.0, -200.0]]), sure).tolist() == [math.inf]
    # d/da of e^a (a - b) is e^a (a - b + 1).
    torch.testing.assert_close(
        slope(lambda a: divergence(a, HALVES[None]), sure), tensor([[1 + math.log(2), 0.0]])
    )


def test_the_entropy_of_what_is_sure_is_0():
    said = torch.stack([HALVES, tensor([0.0, NEVER])])
    torch.testing.assert_close(negative_entropy(said), tensor([-math.log(2), 0.0]))
    assert slope(negative_entropy, said).isfinite().all()


def test_the_mean_of_nothing_and_nothing_is_nothing():
    a, b = tensor([NEVER, NEVER, 0.0]), tensor([NEVER, 0.0, 0.0])
    torch.testing.assert_close(log_mean(a, b), tensor([NEVER, -math.log(2), 0.0]))
    assert slope(lambda x: log_mean(x, b), a).tolist() == [0, 0, 0.5]
