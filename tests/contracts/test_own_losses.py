"""Every algorithm takes a loss of the user's on private examples; some take one to distil by."""

import torch
import torch.nn.functional as F  # noqa: N812

from fedkd import algorithms
from fedkd.losses import with_losses
from tests.contracts.test_algorithms import every_algorithm, run, small


def on_labels(outputs, y):
    return F.cross_entropy(outputs, y, reduction="none")


def towards(outputs, q):
    """The KL divergence; of distributions, cross-entropy has the same gradient."""
    return (torch.special.xlogy(q, q) - q * outputs.log_softmax(-1)).sum(-1)


def twice(loss):
    return lambda outputs, y: 2 * loss(outputs, y)


def after(name, federation, *losses):
    """All that clients and server have after two rounds."""
    task = with_losses(federation.task, federation.clients, *losses)
    last = run(small(name), federation._replace(task=task))[-1]
    return {"server": dict(last.server), **{c.id: dict(c.params) for c in last.clients}}


def same(one, other, tolerance):
    try:
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    except AssertionError:
        return False
    return True


@every_algorithm
def test_its_own_losses_given_as_the_users_change_nothing_and_others_do(name, tiny):
    federation = tiny()
    usual = after(name, federation)
    assert same(after(name, federation, on_labels), usual, 1e-4)
    assert not same(after(name, federation, twice(on_labels)), usual, 1e-4)
    distils = algorithms.get(name).properties.distils
    if name != "fedkd":  # divides by its losses
        assert same(after(name, federation, None, towards), usual, 1e-4)
    assert same(after(name, federation, None, twice(towards)), usual, 1e-4) != distils
