"""Scores against values worked out by hand. A client is a table: its logits are its parameters."""

from dataclasses import replace

import pytest
import torch

from fedkd import targets
from fedkd.core import Client, Model, Task
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.evaluation import (
    collapsed,
    consensus_accuracy,
    diverged,
    evaluate,
    training_accuracy,
)
from fedkd.targets import REAL, SEQUENCE
from kdcore import metrics
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples


def look_up(params, x):
    return Outputs(params["table"][x[:, 0].long()])


def score(tables, labels, label_counts, rows=None, classes=3, **more):
    model = Model(lambda generator: {}, look_up)
    x = torch.arange(float(len(labels))).unsqueeze(1)
    test = Examples(x, torch.tensor(labels), torch.arange(len(labels)) if rows is None else rows)
    clients = [Client(i, "g", {"table": torch.as_tensor(t)}, test) for i, t in enumerate(tables)]
    counts = torch.tensor(label_counts)
    return evaluate(Task({"g": model}, classes), clients, test, counts, **more)


def saying(*answers, sure=5.0):
    """Logits of a client that gives these answers."""
    return sure * torch.nn.functional.one_hot(torch.tensor(answers), 3).float()


LABELS = [0, 0, 1, 1, 2, 2]


def test_accuracy_by_hand():
    scores = score([saying(0, 0, 1, 1, 2, 2), saying(0, 1, 1, 2, 0, 0)], LABELS, [[1] * 3] * 2)
    assert scores.accuracy.tolist() == pytest.approx([1.0, 2 / 6])


def test_accuracy_on_the_own_distribution_by_hand():
    # Right on one half of label 0, on all of label 1, on none of label 2. A client that holds
    # labels 0 and 1 as 3 to 1 scores 3/4 * 1/2 + 1/4 * 1 = 5/8.
    answers = saying(0, 1, 1, 1, 0, 0)
    counts = [[3, 1, 0], [0, 0, 9], [0, 4, 0], [2, 2, 2]]
    scores = score([answers] * 4, LABELS, counts)
    assert scores.accuracy_local.tolist() == pytest.approx([5 / 8, 0.0, 1.0, 0.5])


def test_labels_without_test_examples_are_left_out_of_the_weights():
    # Nothing is known of label 2: what counts are labels 0 and 1, as 1 to 3.
    scores = score([saying(0, 0, 0, 1)], [0, 0, 1, 1], [[1, 3, 100]])
    assert scores.accuracy_local.tolist() == pytest.approx([1 / 4 * 1 + 3 / 4 * 1 / 2])


def test_a_client_of_which_no_label_is_tested_scores_nothing():
    scores = score([saying(0, 0, 0, 1)] * 2, [0, 0, 1, 1], [[0, 0, 0], [0, 0, 7]])
    assert scores.accuracy_local.tolist() == [0.0, 0.0]


def test_agreement_with_most_by_hand():
    # Most say 0, 1, 2, and for the last example 0 and 1 are tied: the smaller counts.
    answers = [saying(0, 1, 2, 0), saying(0, 1, 2, 1), saying(0, 1, 0, 1), saying(1, 1, 2, 0)]
    scores = score(answers, [0, 0, 0, 0], [[1, 1, 1]] * 4)
    assert scores.agreement.tolist() == pytest.approx([1.0, 3 / 4, 2 / 4, 3 / 4])


def test_calibration_is_that_of_the_library(double):
    generator = torch.Generator().manual_seed(0)
    tables = [3 * torch.randn(200, 3, generator=generator) for _ in range(3)]
    labels = torch.randint(3, (200,), generator=generator)
    scores = score(tables, labels.tolist(), [[1] * 3] * 3)
    for table, one in zip(tables, scores.calibration_error, strict=True):
        assert one.item() == pytest.approx(metrics.calibration_error(table, labels), abs=1e-12)
    assert scores.accuracy.tolist() == pytest.approx(
        [metrics.accuracy(table, labels) for table in tables]
    )


def test_accuracy_on_the_own_domain_by_hand():
    # Even examples are of domain 0, odd ones of domain 1; kinds are domain x 3 + label. A client
    # that is right on the examples 0 and 2 alone, and holds label 0 of domain 0 three times and
    # label 1 of domain 1 once, scores 3/4; with label 0 of both domains alike it scores 1/2.
    kinds = torch.tensor([0, 3, 1, 4, 2, 5])
    answers = [saying(0, 1, 1, 2, 0, 0)] * 2
    counts = [[3, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0]]
    scores = score(answers, LABELS, counts, kinds=kinds)
    assert scores.accuracy_local.tolist() == pytest.approx([3 / 4, 1 / 2])
    assert scores.accuracy.tolist() == pytest.approx([2 / 6, 2 / 6])


def test_calibration_by_hand():
    # Always 3/4 sure of class 0, and right half of the time: off by a quarter.
    even = torch.tensor([[6.0, 1.0, 1.0]] * 4).log()  # 6/8 for the first of three
    scores = score([even], [0, 0, 1, 2], [[1, 1, 1]])
    assert scores.calibration_error.tolist() == pytest.approx([0.25], abs=1e-6)


def test_only_the_rows_of_the_test_set_are_asked():
    rows = torch.tensor([4, 0])
    scores = score([saying(0, 1, 2, 0, 2, 0)], LABELS, [[1, 1, 1]], rows)
    assert scores.accuracy.tolist() == [1.0]


def test_a_model_that_has_diverged_is_right_about_nothing():
    broken = torch.full((6, 3), torch.nan)
    overflown = torch.full((6, 3), torch.inf)
    scores = score([broken, overflown, saying(*LABELS)], LABELS, [[1] * 3] * 3)
    assert scores.accuracy.tolist() == [0.0, 0.0, 1.0]
    assert scores.accuracy_local.tolist() == [0.0, 0.0, 1.0]
    assert scores.agreement.tolist() == [0.0, 0.0, 1.0]
    assert scores.calibration_error.isnan().tolist() == [True, True, False]


def test_an_empty_test_set_is_an_error():
    with pytest.raises(ValueError, match="no test examples"):
        score([saying(*LABELS)], LABELS, [[1, 1, 1]], torch.arange(0))


def test_clients_who_share_a_model_are_asked_once_and_scored_each():
    shared, own = saying(0, 1, 1, 1, 0, 0), saying(0, 0, 1, 1, 2, 2)
    tables = [shared, own, shared, shared.expand(6, 3), shared.clone()]
    asked = []

    def noting(function, task, clients, inputs):
        asked.append([client.id for client in clients])
        return sequential(function, task, clients, inputs)

    counts = [[3, 1, 0], [1, 1, 1], [0, 0, 9], [0, 4, 0], [2, 2, 2]]
    scores = score(tables, LABELS, counts, engine=noting)
    assert asked == [[0, 1, 4]]  # a copy is another model
    assert scores.accuracy.tolist() == pytest.approx([1 / 2, 1, 1 / 2, 1 / 2, 1 / 2])
    assert scores.accuracy_local.tolist() == pytest.approx([5 / 8, 1, 0, 1, 1 / 2])


def test_many_examples_are_scored_a_few_at_a_time():
    labels = [i % 3 for i in range(1201)]
    right = saying(*labels)
    right[700:] = saying(*[(label + 1) % 3 for label in labels])[700:]
    assert score([right], labels, [[1, 1, 1]]).accuracy.item() == pytest.approx(700 / 1201)


def holders(tables, labels, rows):
    """A task, and clients that hold the rows of one data set and answer by their tables."""
    x, y = torch.arange(float(len(labels))).unsqueeze(1), torch.tensor(labels)
    clients = [
        Client(i, "g", {"table": table}, Examples(x, y, torch.tensor(own)))
        for i, (table, own) in enumerate(zip(tables, rows, strict=True))
    ]
    return Task({"g": Model(lambda generator: {}, look_up)}, 3), clients


def test_training_accuracy_by_hand():
    # Client 0 holds label 0 three times and label 1 once, and says 0 to all: (3/3 + 0/1) / 2.
    # Client 1 holds labels 1, 2, 2 and is right on 1 and on one of two: (1 + 1/2) / 2.
    tables = [saying(0, 0, 0, 0, 0, 0, 0), saying(0, 0, 0, 0, 1, 2, 0)]
    task, clients = holders(tables, [0, 0, 0, 1, 1, 2, 2], [[0, 1, 2, 3], [4, 5, 6]])
    assert training_accuracy(task, clients).tolist() == pytest.approx([1 / 2, 3 / 4])
    # Who holds nothing is right about nothing and wrong about nothing.
    task, clients = holders(tables, [0, 0, 0, 1, 1, 2, 2], [[0], [5, 6]])
    nothing = replace(clients[0].private, rows=torch.arange(0))
    found = training_accuracy(task, [replace(clients[0], private=nothing), clients[1]]).tolist()
    assert found == pytest.approx([torch.nan, 1 / 2], nan_ok=True)


def test_who_collapsed_by_hand():
    # Labels 0 0 0 1 2. One answer for everything is chance, be it right three times of five;
    # who was at chance before has lost nothing; a label of three kept beside another is above it.
    labels, own = [0, 0, 0, 1, 2], [0, 1, 2, 3, 4]
    good, constant = saying(*labels), saying(0, 0, 0, 0, 0)
    half = saying(0, 0, 0, 1, 0)
    rows = [own, own, own, [0, 1], [0, 1]]
    task, before = holders([good, constant, good, good, good], labels, rows)
    _, after = holders([constant, constant, half, good, saying(1, 2, 0, 0, 0)], labels, rows)
    assert collapsed(task, before, after) == pytest.approx({0: 1 / 3, 4: 0.0})
    assert collapsed(task, before, before) == {}


@pytest.mark.parametrize("engine", [sequential, batched(2)])
def test_who_has_a_parameter_that_is_no_number_has_diverged(tiny, engine):
    federation = tiny()
    clients = list(federation.clients)
    for place, bad in ((1, float("nan")), (3, float("-inf"))):
        params = {name: value.clone() for name, value in clients[place].params.items()}
        list(params.values())[-1].view(-1)[0] = bad
        clients[place] = replace(clients[place], params=params)
    assert diverged(federation.task, federation.clients, engine) == []
    assert diverged(federation.task, clients, engine) == [1, 3]


# Other targets


def other(tables, y, target, counts, kinds=None, tests=(), units=None, engine=sequential):
    """Scores of clients whose outputs are tables, of a target that is no class."""
    model, width = Model(lambda generator: {}, look_up), tables[0].shape[-1]
    rows = torch.arange(len(y))
    test = Examples(rows.float().unsqueeze(1), y, rows)
    clients = [Client(i, "g", {"table": table}, test) for i, table in enumerate(tables)]
    places = y.shape[1] if target is SEQUENCE else 0
    task = Task({"g": model}, width, target=target, places=places, units=units)
    own = [replace(test, rows=torch.tensor(rows)) for rows in tests]
    return evaluate(task, clients, test, torch.tensor(counts), engine, kinds, own)


@pytest.mark.parametrize("engine", [sequential, batched()])
def test_rmse_by_hand(engine):
    # Errors 3, 1, 1, 1 of one client, 2 everywhere of the other; kinds are halves, and the first
    # client's own examples are of the second kind, the other's of both as 3 to 1.
    y = torch.zeros(4, 1)
    tables = [torch.tensor([[3.0], [1], [1], [1]]), torch.full((4, 1), 2.0)]
    kinds = torch.tensor([0, 0, 1, 1])
    found = other(tables, y, REAL, [[0, 5], [3, 1]], kinds, engine=engine)
    assert list(found) == ["rmse", "rmse_local", "mae"]
    assert found.rmse.tolist() == pytest.approx([3**0.5, 2])
    assert found.rmse_local.tolist() == pytest.approx([1, 2])
    assert found.mae.tolist() == pytest.approx([1.5, 2])
    assert found.first == "rmse"
    # 3 to 1: the first client would be at the root of 3/4 (9 + 1)/2 + 1/4.
    again = other(tables, y, REAL, [[3, 1], [3, 1]], kinds, engine=engine)
    assert again.rmse_local[0] == pytest.approx((3 / 4 * 5 + 1 / 4) ** 0.5)
    # In the units of the data, all is as many times as large.
    in_units = other(tables, y, REAL, [[4], [4]], units=torch.tensor([10.0]), engine=engine)
    assert in_units.rmse.tolist() == pytest.approx([10 * 3**0.5, 20])
    assert in_units.rmse_local.tolist() == in_units.rmse.tolist()  # all of one kind


def test_examples_of_kinds_that_nobody_holds_have_a_score_of_their_own():
    # Errors 3, 1, 1, 5 and 2 everywhere; of the third kind, the last two examples, nobody has any.
    y = torch.zeros(4, 1)
    tables = [torch.tensor([[3.0], [1], [1], [5]]), torch.full((4, 1), 2.0)]
    found = other(tables, y, REAL, [[4, 0, 0], [0, 4, 0]], torch.tensor([0, 1, 2, 2]))
    assert list(found) == ["rmse", "rmse_local", "mae", "rmse_unseen"]
    assert found.rmse.tolist() == pytest.approx([3, 2])
    assert found.rmse_local.tolist() == pytest.approx([3, 2])
    assert found.rmse_unseen.tolist() == pytest.approx([13**0.5, 2])


def test_scores_on_test_examples_of_ones_own():
    y = torch.zeros(4, 1)
    tables = [torch.tensor([[3.0], [1], [1], [1]]), torch.full((4, 1), 2.0)]
    found = other(tables, y, REAL, [[4], [4]], tests=[[0], []])
    assert found.rmse_local.tolist() == pytest.approx([3, 2])


def test_f1_and_perplexity_by_hand():
    y = torch.tensor([[1.0, 0], [1, 1], [0, 1]])
    said = torch.tensor([[1.0, -1], [-1, 1], [-1, 1]])  # label 0: one hit, one missed; 1: right
    found = other([said], y, targets.LABELS, [[3]])
    assert list(found) == ["f1_macro", "f1_macro_local", "label_accuracy"]
    assert found.f1_macro.item() == pytest.approx((2 / 3 + 1) / 2)
    even = torch.zeros(2, 3, 4)  # of four tokens, any
    y = torch.tensor([[0, 1, 2], [3, -100, -100]])
    found = other([even], y, SEQUENCE, [[2]])
    assert list(found) == ["perplexity", "perplexity_local", "token_accuracy"]
    assert found.perplexity.item() == pytest.approx(4)
    assert found.token_accuracy.item() == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("target", "y"),
    [
        (REAL, torch.zeros(2, 3)),
        (targets.LABELS, torch.ones(2, 3)),
        (SEQUENCE, torch.zeros(2, 1, dtype=torch.long)),
    ],
    ids=["real", "labels", "sequence"],
)
def test_who_has_diverged_has_no_score(target, y):
    lost = torch.full((2, 1, 3) if target is SEQUENCE else (2, 3), torch.nan)
    found = other([lost], y, target, [[2]])
    assert found[found.first].isnan().all()


def test_a_score_that_is_not_there_is_named():
    found = score([saying(0, 0, 0, 1)], [0, 0, 1, 1], [[1, 3, 0]])
    with pytest.raises(AttributeError, match="no score 'rmse'; there are accuracy"):
        found.rmse  # noqa: B018


def agreed(labels, **server):
    """What is said of a consensus about five public examples of three classes."""
    labels = None if labels is None else torch.tensor(labels)
    task = Task({}, 3, torch.zeros(5, 2), (2,), labels)
    return consensus_accuracy(task, {name: torch.tensor(held) for name, held in server.items()})


def test_a_consensus_is_right_about_as_many_examples_as_it_names_the_class_of():
    said = [[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3], [0.1, 0.1, 0.8], [0.9, 0.1, 0.0]]
    assert agreed([0, 1, 2, 2, 1], consensus=said) == 3 / 5
    assert agreed([2, 1, 0, 0, 1], consensus=said[:2], rows=[4, 1]) == 1 / 2
    assert agreed([0, 1, 2, 2, 1], consensus=said[:2], rows=[0, 1]) == 1


def test_of_labels_that_there_are_not_nothing_is_said():
    said = [[0.8, 0.1, 0.1]] * 5
    assert agreed(None, consensus=said) is None
    assert agreed([0, 1, 2, 2, 1]) is None  # no consensus
    assert agreed([0, 1, 2, 2, 1], consensus=said[:2]) is None  # about which two?
    assert agreed([0, 1, 2, 2, -1], consensus=said) is None
    assert agreed([0, 1, 2, 3, 1], consensus=said) is None  # of other data
