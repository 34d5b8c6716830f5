"""Networks that read tokens: what is said at a place depends on what came before, and on it all."""

import pytest
import torch

from fedkd.algorithms.local import Local
from fedkd.data.datasets import Dataset
from fedkd.data.federated_data import federate, pools
from fedkd.models import build, size
from fedkd.rounds.synchronous import simulate
from fedkd.targets import SEQUENCE
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig

NAMES = ("gru-8", "lstm-8", "transformer-8", "ngram-8")
C, T = 5, 12


@pytest.mark.parametrize("name", NAMES)
def test_a_place_sees_what_came_before_and_nothing_after(name):
    tokens = torch.randint(C, (3, T), generator=generator(0))
    model = build(name, (T,), C, tokens)
    params = model.init(generator(1))
    before = model.predict(params, tokens).logits
    assert before.shape == (3, T, C)
    seen = 8 if name == "ngram-8" else T  # how far each looks back
    for place in range(T):
        other = tokens.clone()
        other[:, place] = (other[:, place] + 1) % C
        changed = (model.predict(params, other).logits - before).abs().amax(dim=(0, 2)) > 1e-7
        assert changed.tolist() == [place <= at < place + seen for at in range(T)]


def test_parameters_are_counted_by_hand():
    e, h, w = 32, 8, 8  # embedded tokens, hidden numbers, width
    assert size(build("gru-8", (T,), C)) == C * e + 3 * (h * e + h * h + 2 * h) + C * h + C
    assert size(build("lstm-8", (T,), C)) == C * e + 4 * (h * e + h * h + 2 * h) + C * h + C
    assert size(build("ngram-8", (T,), C)) == (C + 1) * 16 + 8 * 16 * w + w + C * w + C
    norms, attention, layers = 2 * 2 * w, 4 * (w * w + w), 2 * 2 * w * w + 3 * w
    blocks = 2 * (norms + attention + layers)
    assert size(build("transformer-8", (T,), C)) == (C + T) * w + blocks + 2 * w + C * w + C


@pytest.mark.parametrize("name", NAMES)
def test_what_follows_for_sure_is_learnt(name):
    x = (torch.arange(T) + torch.arange(C).unsqueeze(1)) % C  # counting
    y = (x + 1) % C
    data = Dataset(x.repeat(8, 1), y.repeat(8, 1), C, target=SEQUENCE)
    chosen = pools(data, private=20, public=0, validation=0, test=0, seed=0)
    federation = federate(data, chosen, [torch.arange(20)], [name], 0)
    alone = Local(local=TrainingConfig("adam", learning_rate=0.03, epochs=20, batch_size=10))
    (last,) = simulate(alone, federation.task, federation.clients, rounds=1)
    said = federation.task.models[name].predict(last.clients[0].params, x).logits.argmax(dim=-1)
    assert torch.equal(said, y)


@pytest.mark.parametrize(
    ("name", "shape", "examples"),
    [("gru", (1, 8, 8), torch.zeros(4, 1, 8, 8)), ("ngram-4", (8,), torch.zeros(4, 8))],
)
def test_what_is_no_tokens_is_refused(name, shape, examples):
    with pytest.raises(ValueError, match=f"model {name} reads tokens, .* take another, such as"):
        build(name, shape, C, examples)


@pytest.mark.parametrize("name", ["gru-8-8", "gru@8", "lstm-0", "transformer-"])
def test_a_name_has_one_width_and_no_features(name):
    with pytest.raises(ValueError, match=f"unknown model '{name}'"):
        build(name, (T,), C)


def test_heads_share_the_width_of_a_transformer():
    with pytest.raises(ValueError, match="shared by 4 heads, got 6"):
        build("transformer-6", (T,), C)
