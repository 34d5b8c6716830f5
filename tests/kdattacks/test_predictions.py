"""What an attacker knows of public examples: the newest that was said of each, round by round."""

import pytest
import torch

from fedkd import algorithms
from fedkd.core import Public
from fedkd.messages import Received
from fedkd.rounds.round import public_of
from fedkd.rounds.synchronous import simulate
from kdattacks import Recorded
from kdattacks.predictions import newest_predictions


def about(*rows, total=5):
    nothing = torch.empty(0)
    return Public(torch.arange(total).unsqueeze(1), torch.tensor(rows), nothing, nothing)


def upload(values, rows=None, key="probabilities"):
    table = torch.tensor([[value, 1 - value] for value in values])
    return Received(0, "m", {key: table}, 1.0, None if rows is None else torch.tensor(rows))


def test_of_each_public_example_the_newest_counts_and_rows_that_are_not_named_say_nothing():
    history = [
        (upload([0.1, 0.2, 0.3]), about(4, 0, 1)),
        (Received(0, "m", {}, 1.0), None),
        (upload([0.6, 0.7], [0.0, 1.0]), about(0, 1)),
    ]
    found = newest_predictions(history)
    assert found.rows.tolist() == [0, 1, 4]
    assert found.said[:, 0].tolist() == pytest.approx([0.2, 0.7, 0.1])
    assert found.x.tolist() == [[0], [1], [2], [3], [4]]


def test_logits_are_read_as_distributions():
    (row,) = newest_predictions([(upload([2.0], key="logits"), about(3))]).said.tolist()
    assert row[0] / row[1] == pytest.approx(torch.tensor(3.0).exp().item())  # of 2 and of -1


def test_who_says_nothing_of_public_examples_is_named_with_what_it_sent():
    with pytest.raises(ValueError, match="no predictions of public examples crossed .means did."):
        newest_predictions([(Received(0, "m", {"means": torch.eye(2)}, 1.0), about(0, 1))])
    with pytest.raises(ValueError, match=r"crossed \(nothing did\)"):
        newest_predictions([])
    network = {name: torch.eye(2) for name in "abcde"}  # has many parameters
    with pytest.raises(ValueError, match=r"crossed \(a, b, c and 2 more did\)"):
        newest_predictions([(Received(0, "m", network, 1.0), about(0, 1))])


def test_of_clients_who_repeat_nothing_all_rounds_are_looked_at(tiny):
    """SCARLET's send in their second round nothing of what there is a young consensus of."""
    federation, algorithm = tiny(models=("mlp-8",)), algorithms.get("scarlet")()
    one, two = simulate(algorithm, federation.task, federation.clients, rounds=2)
    public = tuple(public_of(algorithm, federation.task, 0, r.index) for r in (one, two))
    sent = [
        {k: Received(k, "m", u.payload, 1.0, u.rows) for k, u in r.uploads.items()}
        for r in (one, two)
    ]
    assert not two.uploads[1].rows.any()
    found = newest_predictions(Recorded((1,), (), sent, public).history(1))
    expected = one.uploads[1].payload["probabilities"]
    assert found.rows.tolist() == list(range(len(federation.task.public)))
    torch.testing.assert_close(found.said, expected[public[0].rows.argsort()])
