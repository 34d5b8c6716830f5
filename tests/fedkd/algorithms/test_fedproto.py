"""FedProto: a round worked by hand."""

import pytest
import torch

from fedkd.algorithms.fedproto import FedProto
from fedkd.algorithms.local import Local
from fedkd.core import Client, Model, Task
from fedkd.messages import Received
from fedkd.rounds.round import check_federation, deployed, private_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
STILL = TrainingConfig(learning_rate=1e-300)


def look_up(params, x):
    features = params["table"][x[:, 0].long()]
    logits = torch.nn.functional.linear(features, params["head.weight"], params["head.bias"])
    return Outputs(logits, (features,))


def client_of(number, features, labels, head=0.0):
    """A client whose features are a table; its head starts as zero, or as a constant."""
    table = torch.tensor(features)
    params = {"table": table, "head.weight": torch.full((3, 2), head), "head.bias": torch.zeros(3)}
    x, y = torch.arange(float(len(table))).unsqueeze(1), torch.tensor(labels)
    return Client(number, "table", params, Examples(x, y, torch.arange(len(y))))


def federation(*clients):
    model = Model(lambda generator: dict(clients[0].params), look_up)
    return Task({"table": model}, 3), list(clients)


def two():
    yield client_of(0, [[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]], [0, 0, 1])
    yield client_of(1, [[0.0, 4.0], [5.0, 5.0], [0.0, 0.0]], [0, 1, 1])


def test_a_round_by_hand():
    # Client 0: label 0 (2, 0), label 1 (0, 2). Client 1: label 0 (0, 4), label 1 (2.5, 2.5).
    # Each counts once, whatever its number of examples; nobody holds label 2.
    task, clients = federation(*two())
    (current,) = simulate(FedProto(STILL), task, clients, rounds=1)
    expected = torch.tensor([[1.0, 2.0], [1.25, 2.25], [0.0, 0.0]])
    torch.testing.assert_close(current.server["prototypes"], expected)
    assert current.ledger.bytes_up == 2 * 2 * 2 * 8  # clients, labels held, features, float64
    assert current.ledger.bytes_down == 0  # there were none to send yet


def test_two_epochs_count_each_example_once():
    # Label 0: the mean of (1, 0) and (3, 0). Batches of two make three examples four places, which
    # come twice; repetitions and padding are no zeros among the features.
    algorithm = FedProto(TrainingConfig(learning_rate=1e-300, epochs=2, batch_size=2))
    client = client_of(0, [[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]], [0, 0, 1])
    private = private_of(algorithm, client, 0, 1)
    _, upload = algorithm.client_update(look_up, client.params, {}, private, None)
    expected = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    torch.testing.assert_close(upload.payload["prototypes"], expected)
    assert upload.rows.tolist() == [1, 1, 0]


def test_a_step_by_hand():
    # With a head of zeros, the label's loss does not reach the features. The prototype's does:
    # mean_d (h - P)^2 over two features has gradient h - P, so half a step goes half the way.
    # Rows of the head: (p - onehot) h, for the label 1/3 - 1, for the others 1/3.
    client = client_of(0, [[1.0, 0.0]], [0])
    algorithm = FedProto(TrainingConfig(learning_rate=0.5), strength=1.0)
    prototypes = torch.tensor([[3.0, 2.0], [9.0, 9.0], [0.0, 0.0]])
    private = private_of(algorithm, client, 0, 1)
    params, upload = algorithm.client_update(
        look_up, client.params, {"prototypes": prototypes}, private, None
    )
    torch.testing.assert_close(params["table"], torch.tensor([[2.0, 1.0]]))
    head = torch.tensor([[1 / 3, 0.0], [-1 / 6, 0.0], [-1 / 6, 0.0]])
    torch.testing.assert_close(params["head.weight"], head)
    torch.testing.assert_close(upload.payload["prototypes"][0], torch.tensor([2.0, 1.0]))
    assert upload.rows.tolist() == [1.0, 0.0, 0.0]


def test_a_label_without_a_prototype_is_not_drawn_to_zero():
    client = client_of(0, [[1.0, 0.5]], [0], head=0.3)
    algorithm = FedProto(TrainingConfig(learning_rate=0.5), strength=7.0)
    private = private_of(algorithm, client, 0, 1)
    nobody = {"prototypes": torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])}
    told, _ = algorithm.client_update(look_up, client.params, nobody, private, None)
    alone, _ = Local(algorithm.local).client_update(look_up, client.params, {}, private, None)
    assert all(torch.equal(told[key], alone[key]) for key in alone)


def test_in_use_the_nearest_prototype_wins_and_an_unknown_label_never():
    client = client_of(0, [[1.0, 1.0], [4.0, 4.0], [0.1, 0.1]], [0, 0, 0], head=1.0)
    prototypes = torch.tensor([[5.0, 5.0], [1.0, 2.0], [0.0, 0.0]])
    model = FedProto().deploy(look_up, client.params, {"prototypes": prototypes}, None)
    outputs = look_up(model, client.private.x)
    features = client.params["table"]
    assert outputs.logits.argmax(dim=-1).tolist() == [1, 0, 1]
    distances = -torch.cdist(features, prototypes).square() + features.square().sum(1, True)
    torch.testing.assert_close(outputs.logits[:, :2], distances[:, :2])
    assert FedProto().deploy(look_up, client.params, {}, None) == client.params


def test_a_client_may_answer_with_its_own_head():
    client = client_of(0, [[1.0, 1.0]], [0], head=1.0)
    known = {"prototypes": torch.tensor([[5.0, 5.0], [1.0, 2.0], [3.0, 3.0]])}
    algorithm = FedProto(answer="head")
    brought = algorithm.deployment(known, 0, "g")
    assert brought == {}
    assert algorithm.deploy(look_up, client.params, brought, None) is client.params
    with pytest.raises(ValueError, match=r"answer must be prototypes or head, got 'both'"):
        FedProto(answer="both")


def test_a_label_that_nobody_of_the_cohort_holds_keeps_its_prototype():
    task, clients = federation(*two(), client_of(2, [[7.0, 7.0]], [2]))
    cohorts = iter([[0, 1, 2], [0, 1]])
    *_, last = simulate(
        FedProto(STILL), task, clients, rounds=2, sample=lambda clients, generator: next(cohorts)
    )
    torch.testing.assert_close(last.server["prototypes"][2], torch.tensor([7.0, 7.0]))


def test_the_order_of_uploads_and_their_weights_do_not_matter():
    task, _ = federation(*two())
    one = Received(0, "table", {"prototypes": torch.eye(3, 2)}, 1.0, torch.tensor([1.0, 1.0, 0.0]))
    other = one._replace(payload={"prototypes": 3 * torch.eye(3, 2)}, weight=100.0)
    both = FedProto().server_update(task, {}, [one, other], None)["prototypes"]
    torch.testing.assert_close(both, 2 * torch.eye(3, 2))


def test_without_strength_it_is_local(tiny):
    given, training = tiny(), TrainingConfig(learning_rate=0.05, epochs=2, batch_size=4)
    *_, alone = simulate(Local(training), given.task, given.clients, rounds=2)
    *_, free = simulate(FedProto(training, strength=0.0), given.task, given.clients, rounds=2)
    for one, other in zip(free.clients, alone.clients, strict=True):
        for key, value in one.params.items():
            torch.testing.assert_close(value, other.params[key])


def test_prototypes_bring_the_features_of_clients_together(tiny):
    given = tiny(sizes=(20, 20, 20))
    training = TrainingConfig(learning_rate=0.05, epochs=2, batch_size=4)

    def apart(strength):
        *_, last = simulate(FedProto(training, strength), given.task, given.clients, rounds=8)
        shown = [
            given.task.models[c.group].predict(c.params, given.test.x).hidden[-1]
            for c in last.clients
        ]
        return float((shown[0] - shown[1]).square().mean())

    assert apart(3.0) < 0.5 * apart(0.0)


def test_features_of_different_widths_are_an_error_that_names_the_way_out(tiny):
    given = tiny(["mlp-8", "cnn-4-6"])
    with pytest.raises(ValueError, match=r"mlp-8 8, cnn-4-6 6; .*such as mlp-8@64"):
        check_federation(FedProto(), given.task, given.clients)
    mended = tiny(["mlp-8", "cnn-4-6@8"])
    *_, last = simulate(FedProto(), mended.task, mended.clients, rounds=2)
    assert len(deployed(FedProto(), mended.task, last)) == 5


def test_a_model_without_features_is_an_error():
    task, clients = federation(*two())
    model = Model(task.models["table"].init, lambda params, x: Outputs(look_up(params, x).logits))
    with pytest.raises(ValueError, match="shows no features on which its last layer is linear"):
        check_federation(FedProto(), Task({"table": model}, 3, shape=(1,)), clients)
    with pytest.raises(ValueError, match="table shows no features"):
        check_federation(FedProto(), Task(task.models, 4), clients)
    alone = Model(lambda generator: {"weight": torch.zeros(3, 1)}, model.predict)
    with pytest.raises(ValueError, match="table shows no features"):
        check_federation(FedProto(), Task({"table": alone}, 3), clients)


def test_a_negative_strength_is_an_error():
    with pytest.raises(ValueError, match="strength must be >= 0 and finite, got -1"):
        FedProto(strength=-1.0)
