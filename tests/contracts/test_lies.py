"""What every lie does: it passes the border, in each algorithm that it is for, and does harm."""

from dataclasses import fields

import pytest
import torch

from fedkd import algorithms
from fedkd.attacks.lies import LIES
from fedkd.attacks.lying import liars, lying
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig
from simulations.config.experiments import FedExperiment
from simulations.runners import federated
from tests.conftest import tiny_federation

every_lie = pytest.mark.parametrize("name", LIES)
SENT = [name for name, lie in LIES.items() if lie.about == "predictions"]
WITH_PREDICTIONS = ["cfd", "dsfl", "fedmd"]


def said(clients, classes=4, seed=0):
    draws = torch.randn(clients, 6, classes, generator=generator(seed, "said")).double()
    return (2 * draws).softmax(dim=-1)


def lied(name, own, others):
    return LIES[name]().predictions(own, others, generator(0, "lies"))


@every_lie
def test_it_cites_a_paper(name):
    assert "http" in LIES[name].__doc__


@pytest.mark.parametrize("name", SENT)
def test_a_lie_is_a_distribution_and_another_one(name):
    own, others = said(3), said(5, seed=1)
    for crowd in (others, others[:0]):
        found = lied(name, own, crowd)
        assert found.shape == own.shape
        assert found.dtype == own.dtype
        assert found.min() >= 0
        torch.testing.assert_close(found.sum(dim=-1), torch.ones(3, 6).double())
        assert not torch.allclose(found, own, atol=0.1)
    assert torch.equal(lied(name, own, others), lied(name, own, others))


def test_lies_by_hand():
    # Two liars; others have a mean of (.5, .3, .2), and then of (.1, .2, .7).
    own = torch.tensor([[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]]).expand(2, 2, 3)
    others = torch.tensor([[[0.6, 0.3, 0.1], [0, 0.3, 0.7]], [[0.4, 0.3, 0.3], [0.2, 0.1, 0.7]]])
    # 1/q is (2, 4, 4) and (4, 4, 2), of 10 in all.
    opposite = torch.tensor([[0.2, 0.4, 0.4], [0.4, 0.4, 0.2]])
    torch.testing.assert_close(lied("sign-flip", own, others)[0], opposite)
    turned = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]])
    torch.testing.assert_close(lied("permutation", own, others)[1], turned)
    # Certain of the class after 0, and after 2; of the least likely; and of the class that falls
    # when the likeliest rises: from the first example to the second class 2 does so most, by .5,
    # as class 0 falls by .4.
    assert lied("confident", own, others).argmax(dim=-1).tolist() == [[1, 0], [1, 0]]
    assert lied("weakest-class", own, others).argmax(dim=-1).tolist() == [[2, 0], [2, 0]]
    assert lied("class-prior", own, others).argmax(dim=-1).tolist() == [[2, 0], [2, 0]]
    assert LIES["label-flip"]().labels(torch.tensor([0, 3, 9]), 10).tolist() == [1, 4, 0]


def test_who_lies_is_a_matter_of_the_seed():
    chosen = [liars(0.2, 10, seed) for seed in range(20)]
    assert all(len(who) == 2 and set(who) <= set(range(10)) for who in chosen)
    assert liars(0.2, 10, 3) == chosen[3]
    assert len(set(chosen)) > 10
    assert len(liars(0.1, 5, 0)) == 1  # a half is one
    for share, clients in ((0.05, 5), (0.4, 2), (0.49, 6)):
        with pytest.raises(ValueError, match="more clients that are honest"):
            liars(share, clients, 0)


def quick(name):
    training = TrainingConfig("momentum", 0.05, epochs=1, batch_size=4)
    kind = algorithms.get(name)
    return kind(**{f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)})


def differ(one, other):
    """Whether two payloads do."""
    pairs = [(value, other[key]) for key, value in one.items()]
    return any(a.shape != b.shape or not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("algorithm", WITH_PREDICTIONS)
def test_it_passes_the_border_and_changes_nothing_but_what_is_sent(algorithm, name):
    federation, learner = tiny_federation(), quick(algorithm)
    engine = lying(sequential, (1, 3), LIES[name](), "probabilities", 0)
    given = learner, federation.task, federation.clients
    (false,), (true,) = simulate(*given, rounds=1, engine=engine), simulate(*given, rounds=1)
    assert false.rejected == false.failed == {}
    assert false.ledger.bytes_up > 0
    for one, other in zip(false.clients, true.clients, strict=True):
        for key, value in one.params.items():
            assert torch.equal(value, other.params[key])
    changed = {k for k in range(5) if differ(false.uploads[k].payload, true.uploads[k].payload)}
    assert changed
    assert changed <= {1, 3}  # of one bit a lie may be the truth
    if algorithm != "cfd":
        assert changed == {1, 3}
        assert not torch.allclose(false.server["consensus"], true.server["consensus"], atol=1e-3)


def test_liars_know_each_other_and_what_the_honest_send():
    federation, learner = tiny_federation(), quick("dsfl")
    known = []

    class Curious(LIES["noise"]):
        def predictions(self, own, others, generator):
            known.extend([own, others])
            return own

    engine = lying(sequential, (1, 3), Curious(), "probabilities", 0)
    (last,) = simulate(learner, federation.task, federation.clients, rounds=1, engine=engine)
    sent = [last.uploads[client].payload["probabilities"] for client in range(5)]
    assert torch.equal(known[0], torch.stack([sent[1], sent[3]]))
    assert torch.equal(known[1], torch.stack([sent[0], sent[2], sent[4]]))


def test_other_functions_are_left_alone():
    federation, learner = tiny_federation(), quick("dsfl")
    engine = lying(batched(), (0, 1), LIES["noise"](), "probabilities", 0)
    given = learner, federation.task, federation.clients
    (last,) = simulate(*given, rounds=1, engine=engine)
    used = deployed(learner, federation.task, last, engine=engine)
    expected = deployed(learner, federation.task, last, engine=batched())
    for one, other in zip(used, expected, strict=True):
        assert all(torch.equal(v, other.params[k]) for k, v in one.params.items())


# Runs


def run(liars="none", algorithm="dsfl", **settings):
    training = TrainingConfig(learning_rate=0.1, epochs=2, batch_size=16)
    learner = algorithms.get(algorithm)(local=training, distill=training, **settings)
    return FedExperiment(
        learner,
        clients=5,
        models=("mlp-16",),
        partition="iid",
        private=200,
        public=150,
        test=400,
        rounds=4,
        eval_every=4,
        engine="batched",
        liars=liars,
    )


@pytest.fixture(scope="module")
def honest():
    *_, end = federated.run(run(aggregation="sa"))
    return end["metrics"]["accuracy"]


@every_lie
def test_it_does_harm(name, honest):
    *rounds, end = federated.run(run(f"0.4:{name}", aggregation="sa"))
    assert all(not record["rejected"] for record in rounds)
    assert end["metrics"]["accuracy"] < honest - 0.02
    assert end["protocol"].endswith(f"40% liars ({name})")


def test_the_models_of_liars_are_not_scored():
    experiment = run("0.4:label-flip", aggregation="sa")
    who, _ = experiment.lie
    federation = federated.prepare(experiment)
    *_, last, end = federated.run(experiment)
    scored = last["clients"]["accuracy"]
    assert [k for k, score in enumerate(scored) if score is None] == list(who)
    true = [score for score in scored if score is not None]
    assert last["accuracy"] == pytest.approx(sum(true) / 3)
    assert last["accuracy_min"] == min(true)
    clean = federated.prepare(run(aggregation="sa"))
    for one, other in zip(federation.clients, clean.clients, strict=True):
        y, other_y = one.private.y[one.private.rows], other.private.y[other.private.rows]
        assert torch.equal(y, (other_y + (one.id in who)) % 10)
    assert torch.equal(federation.test.y[federation.test.rows], clean.test.y[clean.test.rows])


def test_what_cannot_be_is_said():
    cases = {
        "0.2:nois": "unknown lie 'nois'; did you mean 'noise'?",
        "nobody": "liars must be SHARE:LIE with a share above 0 and below 0.5, and one of class-pr",
        "0.6:noise": "liars must be SHARE:LIE",
        "0.01:noise": "a share of 0.01 of 5 clients is 0; there have to be liars",
    }
    for text, said_of_it in cases.items():
        with pytest.raises(ValueError, match="^[^\n]*$") as refused:
            run(text)
        assert said_of_it in str(refused.value)
    for algorithm in ("fedavg", "fd"):
        experiment = FedExperiment(
            algorithms.get(algorithm)(), models=("mlp-8",), liars="0.2:noise"
        )
        with pytest.raises(ValueError, match="take label-flip, or an algorithm that exchanges"):
            federated.prepare(experiment)
