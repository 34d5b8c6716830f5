"""FedKT: its parts, its votes and a round by hand."""

from collections import Counter
from itertools import combinations

import pytest
import torch

from fedkd.algorithms.fedkt import FedKT, subset
from fedkd.components.public_consensus import ballots, elected
from fedkd.core import Model, Public, Task
from fedkd.messages import Received
from fedkd.rounds.round import deploy_all
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.training.loop import Batches, Clipping, Examples, TrainingConfig, draw

STEP = TrainingConfig("sgd", 1.0, epochs=1, batch_size=4)


def looked_up(params, x):
    """A network whose inputs are numbers of rows of its logits."""
    return Outputs(params["table"][x[:, 0].long()])


MODEL = Model(lambda dice: {"table": torch.zeros(2, 3)}, looked_up)
X = torch.tensor([[0.0], [1.0]])
TASK = Task({"g": MODEL}, 3, X, shape=(1,))
ORDER = torch.tensor([[0, 1, 0, 0]])
PUBLIC = Public(X, torch.arange(2), ORDER, torch.tensor([[True, True, False, False]]))


def shuffled(count, epochs, batch_size=4):
    examples = Examples(torch.zeros(90, 1), torch.arange(90), torch.arange(90)[10 : 10 + count])
    training = TrainingConfig(epochs=epochs, batch_size=batch_size)
    return draw(examples, training, generator(0, count, epochs))


def visits(batches):
    return Counter(batches.order[batches.mask].tolist())


@pytest.mark.parametrize(
    ("count", "parts", "epochs"), [(25, 5, 3), (7, 3, 5), (1, 4, 2), (9, 1, 2)]
)
def test_parts_are_disjoint_even_and_gone_through_once_an_epoch(count, parts, epochs):
    private = shuffled(count, epochs)
    for cut in range(parts):
        found = [subset(private, cut, part, parts) for part in range(parts)]
        seen = [visits(own) for own, _ in found]
        sizes = [len(one) for one in seen]
        assert sum(sizes) == count
        assert max(sizes) - min(sizes) <= 1
        assert sum(seen, Counter()) == {row: epochs for row in range(10, 10 + count)}
        assert [int(own.size) for own, _ in found] == sizes
        assert [float(there) for _, there in found] == [float(size > 0) for size in sizes]


def test_parts_of_different_cuts_share_as_little_as_can_be():
    private = shuffled(25, 1)
    cuts = [[set(visits(subset(private, cut, p, 5)[0])) for p in range(5)] for cut in range(5)]
    for one, other in combinations(cuts, 2):
        assert all(len(a & b) == 1 for a in one for b in other)


def test_mini_batches_are_full_but_for_the_last():
    own, _ = subset(shuffled(20, 6, batch_size=4), 1, 0, 2)
    filled = own.mask.sum(dim=1)
    assert filled[:15].tolist() == [4] * 15  # 60 visits
    assert not filled[15:].any()
    assert own.steps < shuffled(20, 6, batch_size=4).steps


def test_a_label_is_elected_by_most_the_first_of_several_and_by_somebody():
    votes = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    batches = elected(votes, PUBLIC)
    assert batches.y.tolist()[0] == 1
    assert batches.mask.tolist() == [[True, False, False, False]]


def test_a_vote_is_for_the_likeliest_label():
    table = torch.tensor([[0.0, 3.0, 1.0], [0.5, 0.2, 0.4]])
    found = ballots(looked_up, {"table": table}, PUBLIC)
    assert found.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def table(first, second):
    """Logits by which the two public examples are given these labels."""
    return torch.nn.functional.one_hot(torch.tensor([first, second]), 3).float()


def test_students_vote_all_or_none():
    # Client 0's students agree on the first example alone, client 1's on both.
    uploads = [
        Received(0, "g", {"0/table": table(2, 0), "1/table": table(2, 1)}, 1.0),
        Received(1, "g", {"0/table": table(1, 1), "1/table": table(1, 1)}, 1.0),
        Received(2, "g", {"0/table": table(2, 0), "1/table": table(2, 2)}, 1.0),
    ]
    algorithm = FedKT(students=2, subsets=2, distill=STEP)
    votes = algorithm._votes(TASK, uploads, PUBLIC)
    assert votes.tolist() == [[0.0, 2.0, 4.0], [0.0, 2.0, 0.0]]
    # From zeros, one step towards labels 2 and 1: for each of two examples (1/3 - y) / 2.
    server = algorithm.init(TASK, generator(0))
    found = algorithm.server_update(TASK, server, iter(uploads), PUBLIC)["g/table"]
    expected = torch.tensor([[-1 / 6, -1 / 6, 1 / 3], [-1 / 6, 1 / 3, -1 / 6]])
    torch.testing.assert_close(found, expected)


def test_a_clients_round_by_hand():
    # Three teachers, each of one example: two have seen label 1 for input 0, one label 2. Of input
    # 1 they know nothing and say the first label. One step of the student, as above.
    x, y = torch.zeros(3, 1), torch.tensor([1, 2, 1])
    private = Batches(
        x, y, torch.tensor([[0, 1, 2, 0]]), torch.tensor([[True] * 3 + [False]]), torch.tensor(3)
    )
    algorithm = FedKT(STEP, STEP, students=2, subsets=3)
    start = {"table": torch.zeros(2, 3)}
    params, upload = algorithm.client_update(looked_up, start, {}, private, PUBLIC)
    expected = torch.tensor([[-1 / 6, 1 / 3, -1 / 6], [1 / 3, -1 / 6, -1 / 6]])
    torch.testing.assert_close(params["table"], expected)
    assert set(upload.payload) == {"0/table", "1/table"}
    torch.testing.assert_close(upload.payload["1/table"], expected)


def test_parts_without_examples_have_no_vote():
    # One example, of label 2, and nine parts: eight would outvote it with the first label.
    private = Batches(
        torch.zeros(1, 1),
        torch.tensor([2]),
        torch.tensor([[0]]),
        torch.tensor([[True]]),
        torch.tensor(1),
    )
    algorithm = FedKT(STEP, STEP, students=1, subsets=9)
    params, _ = algorithm.client_update(
        looked_up, {"table": torch.zeros(2, 3)}, {}, private, PUBLIC
    )
    assert params["table"][0].argmax() == 2


def test_students_go_up_and_one_model_down(tiny):
    federation = tiny(["mlp-8"])
    algorithm = FedKT(STEP, STEP, students=2, subsets=2)
    first, second = simulate(algorithm, federation.task, federation.clients, rounds=2)
    once = sum(4 * value.numel() for value in federation.clients[0].params.values()) * 5
    assert (first.ledger.bytes_up, first.ledger.bytes_down) == (2 * once, 0)
    assert deploy_all(algorithm, federation.task, first).ledger.bytes_down == once
    assert (second.ledger.bytes_up, second.ledger.bytes_down) == (2 * once, once)


def test_as_many_cuts_as_parts():
    with pytest.raises(ValueError, match="students is 3, .* 2 allows 2; take fewer"):
        FedKT(students=3, subsets=2)


def test_privacy_of_many_models_is_nobodys_account():
    with pytest.raises(ValueError, match="trains many models on each example"):
        FedKT(local=TrainingConfig(privacy=Clipping(1.0, 1.0)))
