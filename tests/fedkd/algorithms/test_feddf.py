"""FedDF: stopping early on validation examples; `rounds/test_synchronous.py` has a round."""

from dataclasses import replace

import pytest
import torch

from fedkd.algorithms.feddf import FedDF
from fedkd.core import MEASURED, Model, Task
from fedkd.messages import Received
from fedkd.rounds.round import check_federation, public_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
STILL = TrainingConfig(learning_rate=1e-300)
STEP = TrainingConfig(learning_rate=1.0, batch_size=8, epochs=6)


def look_up(params, x):
    return Outputs(params["table"][x[:, 0].long()])


def task_of(seen, label):
    """One public example, 0, and one labelled validation example."""
    model = Model(lambda generator: {"table": torch.zeros(2, 2)}, look_up)
    x = torch.arange(2.0).unsqueeze(1)
    held = Examples(x, torch.tensor([label, label]), torch.tensor([seen]))
    return Task({"table": model}, 2, x[:1], validation=held)


def server_of(algorithm, task, average=(1.0, 0.0), teacher=(0.0, 1.0)):
    """The server after a client that says `average` and counts, and another that does not count.

    The mean of both clients' logits is the teacher.
    """
    other = [2 * t - a for t, a in zip(teacher, average, strict=True)]
    tables = [torch.tensor([list(v), [1.0, 0.0]]) for v in (average, other)]
    uploads = (
        Received(k, "table", {"table": table}, weight)
        for k, (table, weight) in enumerate(zip(tables, (1.0, 0.0), strict=True))
    )
    public = public_of(algorithm, task, 0, 1)
    return algorithm.server_update(task, {}, uploads, public)


def taught(algorithm, task, *said):
    """The student at that server."""
    return server_of(algorithm, task, *said)["table/table"]


def passes(count, **more):
    """The student after a fixed number of passes, by plain arithmetic."""
    z, target = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]).softmax(-1)
    for _ in range(count):
        z = z + target - z.softmax(-1)
    return z


def test_a_student_that_gains_nothing_is_the_average():
    # Validation example 1 is not public: nothing that is learnt changes what is said of it.
    for label in (0, 1):
        student = taught(FedDF(STILL, distill=STEP, patience=2), task_of(1, label))
        assert student.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_the_best_pass_by_hand():
    # The student starts with class 0, and the teacher, and the label, say 1. From z = (1, 0) each
    # step adds softmax(0, 1) - softmax(z), that is (-g, g) with g = s(1) + s(z0 - z1) - 1:
    # differences 1 -> 1 - 2 (0.4621) = 0.0758 -> -0.4242: it has turned in the second pass, and no
    # later one can be better.
    gap = float(passes(1)[0] - passes(1)[1])
    assert gap == pytest.approx(0.0758, abs=1e-4)
    assert float(passes(2)[0] - passes(2)[1]) == pytest.approx(-0.4242, abs=1e-4)
    student = taught(FedDF(STILL, distill=STEP, patience=3), task_of(0, 1))
    torch.testing.assert_close(student[0], passes(2))


def test_patience_is_counted_from_the_last_gain():
    # With a patience of one, the first pass brings nothing yet, and there it ends.
    student = taught(FedDF(STILL, distill=STEP, patience=1), task_of(0, 1))
    assert student[0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_all_passes_are_those_of_the_fixed_number(optimizer):
    # The best of passes that get better and better is the last: one optimiser goes all the way.
    distill = replace(STEP, optimizer=optimizer, learning_rate=0.5, epochs=7)
    fixed = taught(FedDF(STILL, distill=distill), task_of(0, 1))
    gains = []
    for epochs in range(1, 8):
        some = replace(distill, epochs=epochs)
        stopped = taught(FedDF(STILL, distill=some, patience=99), task_of(0, 1))
        plain = taught(FedDF(STILL, distill=some), task_of(0, 1))
        turned = bool(plain[0, 1] > plain[0, 0])
        gains.append(turned)
        if turned and not any(gains[:-1]):  # the first pass that is right is kept from then on
            torch.testing.assert_close(stopped, plain, rtol=1e-12, atol=1e-12)
    assert any(gains)
    assert not torch.equal(fixed[0], torch.tensor([1.0, 0.0]))


def test_it_needs_validation_examples_and_says_so(tiny):
    assert FedDF(patience=2).properties.validation == "labelled"
    assert FedDF().properties.validation == "none"
    federation = tiny(["mlp-8"])
    assert federation.task.validation is None
    with pytest.raises(ValueError, match="needs labelled validation examples at the server"):
        check_federation(FedDF(patience=2), federation.task, federation.clients)
    with pytest.raises(ValueError, match="patience must be >= 0, got"):
        FedDF(patience=-1)


def test_patience_counts_passes_and_no_steps():
    with pytest.raises(ValueError, match="patience takes whole epochs, and steps is 5"):
        FedDF(distill=TrainingConfig(steps=5), patience=2)


def test_labels_of_the_test_set_change_nothing(tiny):
    # The task holds no test examples at all; what it holds to select on is another pool.
    federation = tiny(sizes=(5, 6, 4))
    test = federation.test
    held = Examples(test.x, test.y, federation.test.rows[:10])
    task = replace(federation.task, validation=held)
    turned = replace(task, validation=replace(held, y=held.y.clone()))
    turned.validation.y[test.rows[10:]] = 0
    algorithm = FedDF(
        TrainingConfig(batch_size=4), distill=TrainingConfig(batch_size=4), patience=1
    )
    one, other = (
        list(simulate(algorithm, t, federation.clients, rounds=2))[-1].server
        for t in (task, turned)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_round_says_how_good_its_teacher_is_beside_its_average():
    # Validation example 0, label 1: the ensemble says (0, 1), the average (1, 0).
    held = task_of(0, 1)
    for patience, said in ((2, {"ensemble_validation": 1.0, "average_validation": 0.0}), (0, {})):
        server = server_of(FedDF(STILL, distill=STEP, patience=patience), held)
        found = {k.removeprefix(MEASURED): float(v) for k, v in server.items() if MEASURED in k}
        assert found == said
        assert not FedDF().broadcast(server, 0, "table").keys() - {"table"}


def test_the_average_need_not_be_a_candidate():
    # Nothing that is learnt changes what is said of example 1: the first pass is as good as any.
    algorithm = FedDF(STILL, distill=STEP, patience=2, average_counts=False)
    torch.testing.assert_close(taught(algorithm, task_of(1, 1))[0], passes(1))


def test_clients_may_count_alike():
    # Weights are 1 and 0 by examples, so that the average is that of the first: (3, 0); alike, the
    # mean of (3, 0) and of the other, (-3, 2).
    for averaging, expected in (("examples", [3.0, 0.0]), ("uniform", [0.0, 1.0])):
        algorithm = FedDF(STILL, distill=STILL, averaging=averaging)
        found = taught(algorithm, task_of(1, 1), (3.0, 0.0))[0]
        assert found.tolist() == pytest.approx(expected)
