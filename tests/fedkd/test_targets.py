"""Targets: numbers worked out by hand, and scikit-learn and torch as oracles."""

import math
import pickle

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn import metrics as sklearn

from fedkd.algorithms.fedmd import FedMD
from fedkd.rounds.decentralized import gossip
from fedkd.targets import ALL, CLASSES, LABELS, NO_LABEL, REAL, SEQUENCE, TARGETS
from kdcore.outputs import Outputs

every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=ALL)


def drawn(target, count=7, seed=0):
    """Outputs, those of a peer, and what is true, of a target."""
    dice = torch.Generator().manual_seed(seed)
    shape = (count, 4, 3) if target is SEQUENCE else (count, 3)
    first, second = (torch.randn(shape, generator=dice).double() for _ in range(2))
    y = {
        "class": torch.randint(3, (count,), generator=dice),
        "real": torch.randn(shape, generator=dice).double(),
        "labels": torch.randint(2, shape, generator=dice).double(),
        "sequence": torch.randint(3, shape[:2], generator=dice),
    }[target.name]
    return first, second, y


def scores(target, outputs, y):
    return {k: float(v) for k, v in target.metrics(target.tally(outputs, y).sum(dim=0)).items()}


# By hand


def test_real_numbers_by_hand():
    # Two outputs, two examples, wrong by 3 and 1, and by 0 and 2.
    y, outputs = torch.zeros(2, 2), torch.tensor([[3.0, 0.0], [1.0, 2.0]])
    # Beyond one 2 |x| - 1: 5 and 0, 1 and 3. Below it the square.
    assert REAL.loss(Outputs(outputs), y).tolist() == [2.5, 2.0]
    assert REAL.loss(Outputs(outputs / 4), y).tolist() == [9 / 32, (1 + 4) / 32]
    assert REAL.prediction(outputs) is outputs
    found = scores(REAL, outputs, y)
    assert found == pytest.approx({"rmse": (5**0.5 + 2**0.5) / 2, "mae": (2 + 1) / 2})
    assert list(found)[0] == "rmse"


def test_several_labels_by_hand():
    # Label 0: said of 0 and 1, true of 1 and 2: one hit, one false, one missed: F1 1/2.
    # Label 1: never said and never true, which counts as 0. Label 2: always right.
    outputs = torch.tensor([[1.0, -1, 1], [1, -1, -1], [-1, -1, 1]])
    y = torch.tensor([[0.0, 0, 1], [1, 0, 0], [1, 0, 1]])
    expected = {"f1_macro": (1 / 2 + 0 + 1) / 3, "label_accuracy": (1 / 3 + 1 + 1) / 3}
    assert scores(LABELS, outputs, y) == pytest.approx(expected)
    # At outputs of 0 each label costs log 2.
    assert LABELS.loss(Outputs(torch.zeros(1, 3)), y[:1]).item() == pytest.approx(math.log(2))
    assert LABELS.prediction(torch.zeros(1, 2)).tolist() == [[0.5, 0.5]]


def test_sequences_by_hand():
    # Probabilities of the true token 1/2, 1/4; and 1/8, at the place beside it is none.
    p = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.125, 0.875], [0.9, 0.1]]]).double()
    y = torch.tensor([[0, 0], [0, NO_LABEL]])
    loss = SEQUENCE.loss(Outputs(p.log()), y)
    assert loss.tolist() == pytest.approx([math.log(8) / 2, math.log(8)])
    # (1/2 1/4 1/8)^(-1/3) = 4; of three places the first is right, of two equal the first counts.
    found = scores(SEQUENCE, p.log(), y)
    assert found == pytest.approx({"perplexity": 4.0, "token_accuracy": 1 / 3})


def test_what_stands_at_padding_does_not_matter():
    outputs, peer, y = drawn(SEQUENCE)
    y[0, 2:], y[3] = NO_LABEL, NO_LABEL
    other, beside = outputs.clone(), peer.clone()
    other[0, 2:], beside[0, 2:] = 77.0, -5.0
    towards = SEQUENCE.known(SEQUENCE.prediction(peer), y)
    for loss in (
        lambda z, q: SEQUENCE.loss(Outputs(z), y),
        lambda z, q: SEQUENCE.towards(Outputs(z), towards),
        lambda z, q: SEQUENCE.divergence(z, SEQUENCE.known(q, y)),
        lambda z, q: SEQUENCE.tally(z, y),
    ):
        one, two = loss(outputs, peer), loss(other, beside)
        assert torch.equal(one, two)
        assert one[3].abs().sum() == 0  # no place counts
    z = outputs.clone().requires_grad_()
    SEQUENCE.towards(Outputs(z), towards).sum().backward()
    assert z.grad[0, 2:].abs().sum() == 0
    assert z.grad.isfinite().all()


def test_a_sequence_weighs_its_places_alike():
    outputs, _, y = drawn(SEQUENCE)
    expected = F.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="none")
    torch.testing.assert_close(SEQUENCE.loss(Outputs(outputs), y), expected.view(7, 4).mean(1))


def test_sharpened_labels_are_sharpened_one_by_one():
    # softmax((1 - p, p) / T) has at its second place the logistic of (2 p - 1) / T.
    p = torch.tensor([[0.5, 0.75], [0.0, 1.0]])
    expected = ((2 * p - 1) / 0.1).sigmoid()
    torch.testing.assert_close(LABELS.sharpened(p, 0.1), expected)
    assert REAL.sharpened is None


# Oracles


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(seed):
    outputs, _, y = drawn(REAL, 20, seed)
    found = scores(REAL, outputs, y)
    assert found["rmse"] == pytest.approx(sklearn.root_mean_squared_error(y, outputs))
    assert found["mae"] == pytest.approx(sklearn.mean_absolute_error(y, outputs))
    outputs, _, y = drawn(LABELS, 20, seed)
    said = outputs.sigmoid() >= 0.5
    found = scores(LABELS, outputs, y)
    f1 = sklearn.f1_score(y, said, average="macro", zero_division=0)
    assert found["f1_macro"] == pytest.approx(f1)
    assert found["label_accuracy"] == pytest.approx(1 - sklearn.hamming_loss(y, said))
    outputs, _, y = drawn(SEQUENCE, 20, seed)
    y[:, -1] = NO_LABEL
    kept, p = y[:, :-1].flatten(), outputs[:, :-1].flatten(0, 1).softmax(dim=1)
    found = scores(SEQUENCE, outputs, y)
    nll = sklearn.log_loss(kept, p, labels=[0, 1, 2])
    assert found["perplexity"] == pytest.approx(math.exp(nll))
    assert found["token_accuracy"] == pytest.approx(sklearn.accuracy_score(kept, p.argmax(1)))
    outputs, _, y = drawn(CLASSES, 20, seed)
    right = sklearn.accuracy_score(y, outputs.argmax(1))
    assert scores(CLASSES, outputs, y) == {"accuracy": pytest.approx(right)}


def test_the_divergence_of_labels_is_the_sum_of_torchs():
    outputs, peer, _ = drawn(LABELS)
    mine, theirs = (torch.distributions.Bernoulli(logits=z) for z in (outputs, peer))
    expected = torch.distributions.kl_divergence(theirs, mine).mean(dim=1)
    torch.testing.assert_close(LABELS.divergence(outputs, peer), expected)


# What holds of all


@every_target
def test_losses_are_one_number_for_each_example_and_a_peer_gets_no_gradient(target):
    outputs, peer, y = (one.requires_grad_(one.is_floating_point()) for one in drawn(target))
    for loss in (
        target.loss(Outputs(outputs), y),
        target.towards(Outputs(outputs), target.prediction(peer)),
        target.divergence(outputs, peer),
    ):
        assert loss.shape == (7,)
        to_own, to_peer = torch.autograd.grad(loss.sum(), [outputs, peer], allow_unused=True)
        assert to_own.any()
        assert to_peer is None
    same = target.divergence(outputs, outputs.detach())
    torch.testing.assert_close(same, torch.zeros_like(same), rtol=0, atol=1e-12)


@every_target
def test_to_follow_a_prediction_has_the_gradient_of_the_divergence(target):
    # The two differ by what the peer alone decides, its entropy; of real numbers by nothing.
    outputs, peer, _ = drawn(target)
    outputs.requires_grad_()
    first = target.towards(Outputs(outputs), target.prediction(peer))
    second = target.divergence(outputs, peer)
    one, two = (torch.autograd.grad(loss.sum(), [outputs])[0] for loss in (first, second))
    torch.testing.assert_close(one, two)


@every_target
def test_losses_run_for_a_stack(target):
    parts = [drawn(target, seed=seed) for seed in range(3)]
    z, peer, y = map(torch.stack, zip(*parts, strict=True))
    for loss in (
        lambda z, peer, y: target.loss(Outputs(z), y),
        lambda z, peer, y: target.towards(Outputs(z), target.known(target.prediction(peer), y)),
        lambda z, peer, y: target.divergence(z, target.known(peer, y)),
    ):
        alone = torch.stack([loss(*part) for part in parts])
        torch.testing.assert_close(torch.func.vmap(loss)(z, peer, y), alone)


@every_target
def test_tallies_add_up(target):
    # The scores of two halves together are those of the whole.
    outputs, _, y = drawn(target, 8)
    parts = [target.tally(outputs[rows], y[rows]) for rows in (slice(0, 3), slice(3, 8))]
    together = target.metrics(sum(part.sum(dim=0) for part in parts))
    assert {k: float(v) for k, v in together.items()} == pytest.approx(scores(target, outputs, y))


@every_target
def test_more_is_better_of_a_score(target):
    outputs, _, y = drawn(target)
    best = {
        "class": lambda: 9 * F.one_hot(y, 3).double(),
        "real": lambda: y,
        "labels": lambda: 9 * (2 * y - 1),
        "sequence": lambda: 9 * F.one_hot(y, 3).double(),
    }[target.name]()
    assert target.score(best, y) > target.score(outputs, y)
    assert target.lower <= set(scores(target, outputs, y))


@every_target
def test_a_target_can_be_sent_to_another_process(target):
    assert pickle.loads(pickle.dumps(target)) == target


def test_an_algorithm_takes_its_target_from_the_task():
    algorithm = FedMD(pretrain=0)
    other = algorithm.learning(REAL)
    assert (other.target, algorithm.target) == (REAL, CLASSES)
    assert other == algorithm  # a target is no setting
    assert algorithm.learning(CLASSES) is algorithm
    peers = gossip(algorithm, {0: frozenset({0})}).learning(REAL)
    assert peers.algorithm.target is REAL
