"""SCARLET: rounds worked by hand, and what it is without memory."""

from dataclasses import replace

import pytest
import torch

from fedkd.algorithms.dsfl import DSFL
from fedkd.algorithms.local import Local
from fedkd.algorithms.scarlet import SCARLET
from fedkd.components.client_memory import model_alone, remembered
from fedkd.core import Client, Model, Task
from fedkd.rounds.round import deploy_all, deployed, public_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
STILL = TrainingConfig(learning_rate=1e-300)


def look_up(params, x):
    return Outputs(params["table"][x[:, 0].long()].log())


def client_of(number, *table):
    """A client that says of example i what row i of a table of probabilities says."""
    x = torch.arange(float(len(table))).unsqueeze(1)
    private = Examples(x, torch.zeros(len(x)).long(), torch.arange(1))
    return Client(number, "table", {"table": torch.tensor(table)}, private)


@pytest.fixture
def federation():
    """Means of (.6, .4), (.5, .5) and (.9, .1)."""
    clients = [
        client_of(0, [0.8, 0.2], [0.9, 0.1], [0.9, 0.1]),
        client_of(1, [0.4, 0.6], [0.1, 0.9], [0.9, 0.1]),
    ]
    model = Model(lambda dice: dict(clients[0].params), look_up)
    return Task({"table": model}, 2, torch.arange(3.0).unsqueeze(1)), clients


def test_a_consensus_by_hand(federation):
    # Squares of .6 and .4 are .36 and .16; of .9 and .1 .81 and .01.
    (current,) = simulate(SCARLET(STILL, STILL, exponent=2.0), *federation, rounds=1)
    expected = torch.tensor([[36 / 52, 16 / 52], [0.5, 0.5], [81 / 82, 1 / 82]])
    torch.testing.assert_close(current.server["labels"], expected)
    assert current.server["since"].tolist() == [1, 1, 1]


def test_what_crosses_the_network_round_by_round(federation):
    # A consensus is kept for two rounds: all three are asked about in rounds 1, 3 and 5, and told
    # of in rounds 2, 4 and 6, in eight bytes for each of two classes and four for its number. The
    # number of the round is four bytes more.
    rounds = list(simulate(SCARLET(STILL, STILL, duration=2), *federation, rounds=6))
    told, news = 2 * 4, 2 * 3 * (2 * 8 + 4)
    assert [r.ledger.bytes_up for r in rounds] == [2 * 3 * 2 * 8, 0] * 3
    assert [r.ledger.bytes_down for r in rounds] == [0, told + news, *[told, told + news] * 2]
    assert [r.server["since"].tolist() for r in rounds] == [[k] * 3 for k in (1, 1, 3, 3, 5, 5)]
    for client in rounds[-1].clients:
        memory = remembered(client.params)
        torch.testing.assert_close(memory["labels"], rounds[-1].server["labels"])
        assert torch.equal(memory["since"], rounds[-1].server["since"])


def test_a_model_in_use_is_brought_no_more_than_it_needs(federation):
    # After a round that told of all three examples: two classes of eight bytes each. Of a part of
    # them with their numbers, of four bytes; of nothing new nothing. The number of the round is for
    # memory. The models are those of the whole broadcast.
    digest = TrainingConfig(learning_rate=0.2, epochs=3)
    algorithm = SCARLET(STILL, digest, public_size=2, duration=99)
    for asked, brought in ((algorithm, None), (replace(algorithm, public_size=None), [48, 0])):
        rounds = list(simulate(asked, *federation, rounds=2))
        used = [deploy_all(asked, federation[0], current) for current in rounds]
        if brought:
            assert [one.ledger.bytes_down for one in used] == [2 * each for each in brought]
        for current, one in zip(rounds, used, strict=True):
            public = public_of(asked, federation[0], 0, current.index + 1)
            for client, deployed_one in zip(current.clients, one.clients, strict=True):
                whole = asked.broadcast(current.server, client.id, "table")
                expected = asked.deploy(look_up, client.params, whole, public)
                torch.testing.assert_close(deployed_one.params, expected)
    part = next(
        server
        for current in simulate(algorithm, *federation, rounds=9)
        if len((server := current.server)["news/fresh"]) == 1
    )
    assert sorted(algorithm.deployment(part, 0, "table")) == ["consensus", "fresh", "rows"]


def test_a_round_about_a_part_asks_about_what_is_not_known_of_it(federation):
    # Of three examples two a round: what a later round has in common with earlier ones is known.
    rounds = list(
        simulate(SCARLET(STILL, STILL, public_size=2, duration=99), *federation, rounds=9)
    )
    assert rounds[0].ledger.bytes_up == 2 * 2 * 2 * 8
    assert sum(r.ledger.bytes_up for r in rounds) == 2 * 3 * 2 * 8  # each example once in all
    assert rounds[-1].ledger.bytes_down == 2 * (4 + 2 * 4)  # the round, and the last one's rows


def test_without_memory_and_sharpening_it_is_the_mean_of_dsfl(tiny):
    given = tiny(sizes=(6, 3, 8))
    local = TrainingConfig(learning_rate=0.05, epochs=1, batch_size=4)
    plain = DSFL(local, local, public_size=5, aggregation="sa")
    *_, one = simulate(plain, given.task, given.clients, rounds=4)
    short = SCARLET(local, local, public_size=5, duration=1, exponent=1.0)
    *_, other = simulate(short, given.task, given.clients, rounds=4)
    used = [deployed(a, given.task, r) for a, r in ((plain, one), (short, other))]
    for first, second in zip(*used, strict=True):
        assert first.params.keys() == second.params.keys()
        for key, value in first.params.items():
            torch.testing.assert_close(second.params[key], value)


def test_the_consensus_of_memory_is_digested_in_each_round(tiny):
    # A consensus that is never renewed goes on teaching: all of its rows, though none is told.
    given = tiny(sizes=(6, 3))
    digest = TrainingConfig(learning_rate=0.2, epochs=20, batch_size=4)
    algorithm = SCARLET(TrainingConfig(learning_rate=1e-300), digest, duration=99)
    first, *_, last = simulate(algorithm, given.task, given.clients, rounds=6)

    def distance(clients):
        labels = first.server["labels"]
        return [
            float(
                (
                    given.task.models[c.group]
                    .predict(model_alone(c.params), given.task.public)
                    .logits.softmax(-1)
                    - labels
                )
                .abs()
                .mean()
            )
            for c in clients
        ]

    assert last.ledger.bytes_up == 0
    for before, after in zip(distance(first.clients), distance(last.clients), strict=True):
        assert after < 0.7 * before


def test_who_knows_no_consensus_yet_digests_what_is_new_alone(tiny):
    # Client 1 comes in round 3, when nothing is new: it does as if it were alone.
    given = tiny(sizes=(6, 3))
    local = TrainingConfig(learning_rate=0.05, epochs=1, batch_size=4)
    cohorts = iter([[0], [0], [0, 1]])
    algorithm = SCARLET(local, TrainingConfig(learning_rate=0.2, epochs=3), duration=99)
    *_, last = simulate(
        algorithm, given.task, given.clients, rounds=3, sample=lambda *_: next(cohorts)
    )
    alone = iter([[0], [0], [0, 1]])
    *_, expected = simulate(
        Local(local), given.task, given.clients, rounds=3, sample=lambda *_: next(alone)
    )
    for key, value in expected.clients[1].params.items():
        torch.testing.assert_close(last.clients[1].params[key], value)
    # It says what all examples are, and the server, who knows, takes no notice.
    assert last.uploads[1].payload["probabilities"].shape == (11, 5)
    assert last.uploads[0].payload["probabilities"].shape == (0, 5)
    assert last.server["since"].tolist() == [1] * 11
