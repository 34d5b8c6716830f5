"""Noisy elections (PATE): who wins without noise, what is told where nobody does, what it costs."""

import pytest
import torch

from fedkd.algorithms.fedmd import FedMD
from fedkd.communication import compression
from fedkd.communication.aggregation import Aggregation
from fedkd.communication.channel import Channel
from fedkd.communication.noisy_aggregation import Cohort, elected
from fedkd.messages import PayloadSpec, Received
from fedkd.privacy.accounting import Ledger
from fedkd.privacy.events import Gaussian
from fedkd.privacy.secure_sum import SecureSum
from fedkd.privacy.votes import NoisyVotes
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from tests.contracts.test_algorithms import small

EXACT = NoisyVotes(most=60, threshold=3.0, test_noise=0.0, noise=0.0)


def election(votes, predictions, seed=0):
    """What is told of predictions (K, N, C) of K clients, (N, C)."""
    specs = {"probabilities": PayloadSpec(tuple(predictions.shape[1:]), simplex=True)}
    clients = range(len(predictions))
    cohort = Cohort({"a": specs}, {"a": float(len(predictions))}, {"a": {}}, {})
    uploads = [Received(k, "a", {"probabilities": predictions[k]}, 7.0) for k in clients]
    total, count = elected(votes, FedMD(), uploads, cohort, generator(seed, "noise"))
    return total["probabilities"] / count


def test_without_noise_the_plurality_wins_where_it_is_large_enough():
    drawn = torch.randn(5, 200, 4, generator=generator(1, "p")).softmax(dim=-1)
    told = election(EXACT, drawn)
    answered = 0
    for row, ballots in zip(told, drawn.argmax(dim=-1).T.tolist(), strict=True):
        votes = [ballots.count(c) for c in range(4)]
        if max(votes) >= 3 and answered < 60:
            answered += 1
            assert row.tolist() == [float(c == votes.index(max(votes))) for c in range(4)]
        else:
            assert not row.any()
    assert answered == 60  # the cap is reached, and nothing is told after it


def test_one_client_has_one_vote_however_sure_it_is():
    # Two of three say class 1, barely; one says class 0 with all its weight.
    rows = torch.tensor([[[1.0, 0.0]], [[0.49, 0.51]], [[0.49, 0.51]]])
    limits = NoisyVotes(most=1, threshold=2.0, test_noise=0.0, noise=0.0)
    assert election(limits, rows).tolist() == [[0.0, 1.0]]


def test_noise_elects_others_as_often_as_it_must():
    # Three votes to one with noise 1 on each: the loser wins with chance P(N(0, 2) > 2) = .0786.
    rows = torch.eye(2)[torch.tensor([0, 0, 0, 1])].unsqueeze(1).expand(4, 20_000, 2)
    limits = NoisyVotes(most=20_000, threshold=0.0, test_noise=0.0, noise=1.0)
    assert election(limits, rows)[:, 1].mean().item() == pytest.approx(0.0786, abs=0.006)
    # And a threshold at the number of votes is passed by half of them.
    tests = NoisyVotes(most=20_000, threshold=3.0, test_noise=5.0, noise=0.0)
    assert election(tests, rows).sum(dim=1).mean().item() == pytest.approx(0.5, abs=0.015)


def test_tests_and_elections_are_paid_for_whether_they_take_place_or_not():
    votes = NoisyVotes(most=286, threshold=200, test_noise=150.0, noise=40.0)
    assert votes.events((640, 10)) == (Gaussian(150.0, 640), Gaussian(40 / 2**0.5, 286))
    assert votes.events((20, 5, 10))[1].count == 100  # no more than there are questions
    # The paper's MNIST run, by an epsilon that does not depend on the votes: 2.54 by PLD.
    spent = Ledger("client", "replace", votes.events((640, 10))).guarantee(1e-5)
    assert spent.epsilon == pytest.approx(2.54, abs=0.02)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("fedmd", {}), ("cfd", {}), ("dsfl", {"aggregation": "sa"})],
    ids=["fedmd", "cfd", "dsfl"],
)
def test_students_learn_from_what_was_elected(name, settings, tiny):
    federation, algorithm = tiny(["mlp-8"], sizes=(8,) * 5), small(name, **settings)
    some = Aggregation(votes=NoisyVotes(most=6, threshold=4.0, test_noise=0.5, noise=0.5))
    federated = algorithm, federation.task, federation.clients
    rounds = list(simulate(*federated, rounds=2, aggregation=some))
    for current in rounds:
        assert current.rejected == {}
        consensus = current.server["consensus"]
        assert consensus.isfinite().all()
        if name != "cfd":  # its server's model speaks of all examples
            assert set(consensus.sum(dim=1).tolist()) <= {0.0, 1.0}
            assert consensus.sum() <= 6
    again = list(simulate(*federated, rounds=2, aggregation=some))
    assert torch.equal(again[-1].server["consensus"], rounds[-1].server["consensus"])


@pytest.mark.parametrize(
    ("algorithm", "how", "channel", "said"),
    [
        (small("fedavg"), {}, Channel(), "an election is of the classes of public examples"),
        (small("fedproto"), {}, Channel(), "an election is of the classes of public examples"),
        (small("fd"), {}, Channel(), "needs each upload on its own"),
        (small("fedmd"), {}, compression.channel("root8"), "take compression none"),
        (small("fedmd"), {}, compression.channel("krr", 1.0), "labels that clients randomise"),
        (small("fedmd"), {"secure": SecureSum()}, Channel(), "take one of them"),
    ],
    ids=["parameters", "prototypes", "each", "compression", "krr", "secure"],
)
def test_what_is_no_election_is_refused(algorithm, how, channel, said, tiny):
    federation = tiny()
    federated = algorithm, federation.task, federation.clients
    aggregation = Aggregation(votes=EXACT, **how)
    with pytest.raises(ValueError, match=said):
        next(simulate(*federated, rounds=1, aggregation=aggregation, channel=channel))


def test_votes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="noise must be >= 0 and finite, got -1"):
        NoisyVotes(noise=-1.0)
