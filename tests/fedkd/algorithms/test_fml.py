"""FML: a step worked by hand, and what crosses the network."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from fedkd.algorithms.fml import FML
from fedkd.algorithms.local import Local
from fedkd.communication.channel import Channel
from fedkd.core import Client, Model, Task
from fedkd.messages import Transform
from fedkd.models import build
from fedkd.rounds.round import deployed, private_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig
from tests import modules

ONE_STEP = TrainingConfig(learning_rate=1.0, batch_size=8)


def look_up(params, x):
    return Outputs(params["table"][x[:, 0].long()])


def one_example():
    """A client with one example of class 0, for which its table says (1/2, 1/2)."""
    start = {"table": torch.zeros(1, 2)}
    examples = Examples(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([0]))
    model = Model(lambda generator: start, look_up)
    return Task({"table": model}, 2, shape=(1,)), Client(0, "table", start, examples)


def constant(probabilities):
    """A meme, mlp-2, that says the same of every example; only its last bias can learn."""
    zeros = {k: torch.zeros_like(v) for k, v in build("mlp-2", (1,), 2).init(stream()).items()}
    return zeros | {"layer1.bias": torch.tensor(probabilities).log()}


def stream():
    return torch.Generator().manual_seed(0)


def test_a_step_by_hand(double):
    # The client says p = (.5, .5), the meme q = (.8, .2), the label is 0; steps of size 1.
    # Own:  1/4 (p - onehot) + 3/4 (p - q) = 1/4 (-.5, .5) + 3/4 (-.3, .3)  = (-.35, .35).
    # Meme: 3/4 (q - onehot) + 1/4 (q - p) = 3/4 (-.2, .2) + 1/4 (.3, -.3) = (-.075, .075).
    # A teacher that got a gradient, or a KL averaged over the classes, would give others.
    _, client = one_example()
    algorithm = FML(ONE_STEP, meme="mlp-2", own_weight=0.25, meme_weight=0.75)
    meme = constant([0.8, 0.2])
    private = private_of(algorithm, client, 0, 1)
    params, upload = algorithm.client_update(look_up, client.params, meme, private, None)
    torch.testing.assert_close(params["table"], torch.tensor([[0.35, -0.35]]))
    moved = {key: upload.payload[key] - meme[key] for key in meme}
    torch.testing.assert_close(moved.pop("layer1.bias"), torch.tensor([0.075, -0.075]))
    assert not any(value.any() for value in moved.values())


@pytest.mark.filterwarnings("ignore:reduction")  # which is what is meant
def test_half_of_the_libraries_is_a_weight_of_ten_elevenths_here(double):
    # 1/2 CE + 1/2 KL / C = (1/2 + 1/2C) (a CE + (1 - a) KL) with a = C / (C + 1): of ten classes
    # 0.91, and steps of 0.55. Theirs by torch's own criteria, the peer a constant.
    logits, meme = torch.arange(10.0) / 5, torch.arange(10.0).flip(0).log1p().log_softmax(dim=0)
    own = logits.clone().requires_grad_()
    soft = torch.nn.KLDivLoss()(own.log_softmax(dim=0).unsqueeze(0), meme.exp().unsqueeze(0))
    theirs = 0.5 * F.cross_entropy(own.unsqueeze(0), torch.tensor([3])) + 0.5 * soft
    (slope,) = torch.autograd.grad(theirs, own)
    examples = Examples(torch.zeros(1, 1), torch.tensor([3]), torch.tensor([0]))
    client = Client(0, "table", {"table": logits.unsqueeze(0)}, examples)
    training = TrainingConfig(learning_rate=0.55, batch_size=8)
    algorithm = FML(training, meme="mlp-2", own_weight=10 / 11)
    zeros = build("mlp-2", (1,), 10).init(stream())
    received = {k: torch.zeros_like(v) for k, v in zeros.items()} | {"layer1.bias": meme}
    private = private_of(algorithm, client, 0, 1)
    params, _ = algorithm.client_update(look_up, client.params, received, private, None)
    torch.testing.assert_close(params["table"][0], logits - slope)


def test_the_server_keeps_the_mean_by_examples(tiny):
    federation = tiny(sizes=(2, 6))
    algorithm = FML(TrainingConfig(epochs=1, batch_size=4), meme="mlp-3")
    sent = []
    spy = Transform(lambda message, generator: sent.append(message) or message)
    (current,) = simulate(
        algorithm, federation.task, federation.clients, rounds=1, channel=Channel((spy,))
    )
    first, second = sent
    assert set(first) == {"layer0.weight", "layer0.bias", "layer1.weight", "layer1.bias"}
    for key in first:
        expected = (2 * first[key].double() + 6 * second[key].double()) / 8
        torch.testing.assert_close(current.server[f"meme/{key}"], expected.float())


def test_bytes_are_those_of_the_meme_both_ways(tiny):
    federation = tiny(sizes=(2, 6, 3))  # images of 36 pixels, five classes, three architectures
    algorithm = FML(TrainingConfig(epochs=1, batch_size=4), meme="mlp-3")
    (current,) = simulate(algorithm, federation.task, federation.clients, rounds=1)
    weights = 36 * 3 + 3 + 3 * 5 + 5
    assert current.ledger.bytes_down == 3 * 4 * weights
    assert current.ledger.bytes_up == 3 * (4 * weights + 8)  # and the numbers of examples


def test_with_hard_labels_alone_it_is_local(tiny, double):
    federation = tiny()
    training = TrainingConfig(learning_rate=0.05, epochs=2, batch_size=4)
    *_, alone = simulate(Local(training), federation.task, federation.clients, rounds=2)
    algorithm = FML(training, own_weight=1.0, meme_weight=1.0)
    *_, both = simulate(algorithm, federation.task, federation.clients, rounds=2)
    for one, other in zip(both.clients, alone.clients, strict=True):
        for key, value in one.params.items():
            torch.testing.assert_close(value, other.params[key])


def test_the_model_in_use_is_the_clients_own(tiny):
    federation = tiny()
    *_, current = simulate(FML(meme="cnn-4"), federation.task, federation.clients, rounds=1)
    for before, after in zip(
        current.clients, deployed(FML(meme="cnn-4"), federation.task, current), strict=True
    ):
        assert all(torch.equal(after.params[key], value) for key, value in before.params.items())


@pytest.mark.parametrize("meme", ["mlp-8", "cnn-4-8", "resnet8-4", "lenet@6"])
def test_the_meme_may_be_of_any_architecture_and_learns(meme, tiny):
    federation = tiny()
    algorithm = FML(TrainingConfig(learning_rate=0.1, epochs=2, batch_size=4), meme=meme)
    model = build(meme, federation.task.shape, 5)
    x, y = federation.test.x, federation.test.y

    def loss(server):
        params = {k.removeprefix("meme/"): v for k, v in server.items()}
        return float(F.cross_entropy(model.predict(params, x).logits, y))

    rounds = list(simulate(algorithm, federation.task, federation.clients, rounds=6))
    assert loss(rounds[-1].server) < loss(algorithm.init(federation.task, stream())) - 0.02


OWN = str(Path(modules.__file__)) + ":Scaled"


def test_a_meme_that_cannot_be_built_is_an_error_before_anything_runs(tiny):
    federation = tiny()
    with pytest.raises(ValueError, match="did you mean 'mlp'"):
        next(simulate(FML(meme="mpl"), federation.task, federation.clients, rounds=1))
    with pytest.raises(ValueError, match="is a torch module, which only .* networks mlp, cnn"):
        next(simulate(FML(meme=OWN), federation.task, federation.clients, rounds=1))
    task, client = one_example()
    with pytest.raises(ValueError, match=r"give Task\(..., shape=...\)"):
        next(simulate(FML(), task.__class__(task.models, 2), [client], rounds=1))


def test_shares_are_between_zero_and_one():
    with pytest.raises(ValueError, match="own_weight must be from 0 to 1, got 2"):
        FML(own_weight=2)
