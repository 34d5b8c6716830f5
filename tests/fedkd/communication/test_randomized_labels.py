"""k-ary randomised response as the last word of a client: frequencies, bytes, an audit, a mean."""

import math

import pytest
import torch

from fedkd.communication import compression
from fedkd.communication.aggregation import label_events
from fedkd.communication.channel import Channel
from fedkd.communication.compression import krr
from fedkd.messages import PayloadSpec, Upload, weigh
from fedkd.privacy.accounting import Ledger
from fedkd.privacy.events import RandomizedResponse
from fedkd.privacy.lower_bounds import lower_bound
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from tests.contracts.test_algorithms import small

DRAWS = 50_000


def read_of(label, epsilon, count=DRAWS, classes=10, seed=0):
    """What the server reads of so many rows that are all for one label."""
    rows = torch.eye(classes)[torch.full((count,), label)]
    channel, spec = Channel((krr(epsilon),)), {"p": PayloadSpec((count, classes), simplex=True)}
    sent = channel.send_up(Upload({"p": rows}), generator(seed, "up", label))
    return sent, channel.read_up(sent, spec).payload["p"]


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_labels_are_kept_as_often_as_epsilon_says_and_the_mean_is_right(epsilon):
    sent, read = read_of(3, epsilon)
    said = torch.bincount(read.argmax(dim=1), minlength=10) / DRAWS
    keep = math.exp(epsilon) / (math.exp(epsilon) + 9)
    assert said[3].item() == pytest.approx(keep, abs=5 * math.sqrt(keep * (1 - keep) / DRAWS))
    others = torch.cat([said[:3], said[4:]])
    each = (1 - keep) / 9
    assert (others - each).abs().max() < 5 * math.sqrt(each / DRAWS)
    expected = torch.eye(10)[3]
    sizes = read.double().std(dim=0) / math.sqrt(DRAWS)
    assert ((read.double().mean(dim=0) - expected).abs() < 5 * sizes).all()
    assert read.min() < 0
    assert sum(weigh(sent.payload).values()) == 9 + DRAWS // 2  # four bits a row, and the shape


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_an_audit_proves_nearly_epsilon_and_no_more(epsilon):
    # A label is kept or not: the ratio of the two chances is e^epsilon, so the bound is tight.
    scores = [(read_of(label, epsilon)[1].argmax(dim=1) == 1).double() for label in (0, 1)]
    found = lower_bound(*scores, delta=1e-9).clopper_pearson
    assert 0.85 * epsilon < found <= epsilon
    weaker = [(read_of(label, 2 * epsilon)[1].argmax(dim=1) == 1).double() for label in (0, 1)]
    assert lower_bound(*weaker, delta=1e-9).clopper_pearson > epsilon  # half the noise is caught


def test_the_same_seed_says_the_same_and_another_client_otherwise():
    one, again, other = (read_of(0, 1.0, 50, seed=s)[1] for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_what_a_client_spends_is_of_all_its_labels():
    events = label_events(2.0, PayloadSpec((300, 10), simplex=True))
    assert events == (RandomizedResponse(2.0, 10, 300),)
    assert label_events(2.0, PayloadSpec((30, 5, 10), simplex=True))[0].count == 150
    one = Ledger("label", "replace").plus(RandomizedResponse(2.0, 10)).guarantee(1e-9)
    assert one.epsilon == pytest.approx(2.0, abs=1e-3)
    two = Ledger("client", "replace", events * 2).guarantee(1e-5)  # two rounds
    assert 320 < two.epsilon < 1200


@pytest.mark.parametrize("name", ["dsfl", "fedmd"])
def test_the_server_makes_distributions_of_the_mean(name, tiny):
    federation = tiny(sizes=(6, 6, 6))
    channel = compression.channel("krr", 1.0)
    for current in simulate(
        *(small(name), federation.task, federation.clients), rounds=2, channel=channel
    ):
        assert current.rejected == {}
        consensus = current.server["consensus"]
        assert consensus.min() >= 0
        torch.testing.assert_close(consensus.sum(dim=1), torch.ones(len(consensus)))


def test_a_consensus_of_many_clients_is_that_of_their_labels(tiny):
    federation = tiny(["mlp-8"], sizes=(4,) * 40, public=20)
    (plain,), (random,) = (
        list(
            simulate(
                *(small("fedmd"), federation.task, federation.clients),
                rounds=1,
                channel=compression.channel(*name),
            )
        )
        for name in (("argmax",), ("krr", 3.0))
    )
    apart = (plain.server["consensus"] - random.server["consensus"]).abs()
    # A row is the mean of 40 labels, each kept with chance .83: a standard error of about .08.
    assert apart.mean() < 0.1
    assert apart.max() > 0.01


@pytest.mark.parametrize(
    "spec", [PayloadSpec((3, 3), simplex=True, rows=True), PayloadSpec((3, 3))]
)
def test_what_says_more_than_labels_is_refused(spec):
    with pytest.raises(ValueError, match="randomises the labels of public examples"):
        label_events(1.0, spec)


def test_an_epsilon_is_for_krr_and_for_nothing_else():
    with pytest.raises(ValueError, match="krr and epsilon_label None: .* give both, or neither"):
        compression.channel("krr")
    with pytest.raises(ValueError, match="argmax and epsilon_label 2.0"):
        compression.channel("argmax", 2.0)
    with pytest.raises(ValueError, match="epsilon is -1.0"):
        compression.channel("krr", -1.0)
