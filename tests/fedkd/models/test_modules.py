"""Torch modules as models: whose values, what is state, what is stacked, what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fedkd.core import STREAM
from fedkd.models import build, from_module, group_names
from kdcore.rng import generator
from tests import modules

X = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(17, (6, 9), generator=torch.Generator().manual_seed(2))


def of(make, x=X, shape=(1, 6, 6), classes=5):
    return build(make, shape, classes, x)


def drawn(model, seed=0):
    return model.init(generator(seed, "client"))


def test_every_client_draws_the_modules_own_initial_values():
    model = of(modules.Scaled)
    one, again, other = drawn(model), drawn(model), drawn(model, 1)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["inner.weight"], other["inner.weight"])
    assert torch.equal(one["gamma"], torch.ones(64))
    assert float(one["temperature"]) == 10
    before = torch.get_rng_state()
    drawn(model)
    assert torch.equal(before, torch.get_rng_state())  # torch's own stream is left alone


def test_a_module_that_is_given_is_where_all_begin():
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
    model = of(module)
    one, other = drawn(model), drawn(model, 1)
    for name, value in module.named_parameters():
        assert torch.equal(one[name], value)
        assert torch.equal(other[name], value)
    torch.testing.assert_close(model.predict(one, X).logits, module(X))


def test_what_is_frozen_or_constant_stays_in_the_network():
    body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8)).eval()
    body.requires_grad_(False)
    module = nn.Sequential(body, nn.Linear(8, 5))
    model = of(module)
    assert list(drawn(model)) == ["1.weight", "1.bias"]
    assert model.predict.alone is None  # a part in eval mode stays in it, and keeps no statistics
    outputs, fresh = model.predict.learn(drawn(model), X)
    assert fresh == {}
    torch.testing.assert_close(outputs.logits, module[1](body(X)))
    same = of(module).constants
    body[1].weight[0, 0] += 1
    assert model.constants == same != of(module).constants
    assert of(nn.Sequential(nn.Flatten(), nn.Linear(36, 5))).constants == ""


def test_statistics_are_state_and_move_as_torchs_do():
    model = of(modules.Net)
    params = drawn(model)
    assert list(params)[:4] == [
        STREAM,
        "~body.2.running_mean",
        "~body.2.running_var",
        "~body.2.num_batches_tracked",
    ]
    norm = nn.BatchNorm1d(8)
    norm(F.linear(X.flatten(1), params["body.1.weight"], params["body.1.bias"]))
    _, fresh = model.predict.learn(params, X)
    assert int(fresh[STREAM]) == int(params[STREAM]) + 1
    torch.testing.assert_close(fresh["~body.2.running_mean"], norm.running_mean)
    torch.testing.assert_close(fresh["~body.2.running_var"], norm.running_var)
    assert int(params["~body.2.num_batches_tracked"]) == 0  # what is given is left as it is


def test_buffers_that_are_replaced_are_state_too():
    class Moving(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(36, 5)
            self.register_buffer("mean", torch.zeros(36))

        def forward(self, x):
            if self.training:
                self.mean = 0.5 * self.mean + 0.5 * x.flatten(1).mean(0).detach()
            return self.head(x.flatten(1) - self.mean)

    model = of(Moving)
    _, fresh = model.predict.learn(drawn(model), X)
    torch.testing.assert_close(fresh["~mean"], X.flatten(1).mean(0) / 2)


STACKED = (modules.Dropped, modules.Scaled)


@pytest.mark.parametrize("make", STACKED, ids=lambda make: make.__name__)
def test_what_vmap_computes_alike_is_stacked(make):
    assert of(make).predict.alone is None
    assert of(make).notes == ()


def test_a_transformer_on_tokens_is_stacked():
    assert of(modules.Tokens, TOKENS, (9,)).notes == ()


class Sideways(nn.Module):
    """Dropout where the batch is not the first axis: padding changes its masks."""

    def __init__(self):
        super().__init__()
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.drop(x.squeeze(1).transpose(0, 1))).mean(0)


class Alpha(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.head = nn.AlphaDropout(0.3), nn.Linear(36, 5)

    def forward(self, x):
        return self.head(self.drop(x.flatten(1)))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (modules.Net, "keeps statistics of its mini-batches"),
        (modules.Lstm, "cannot be stacked"),
        (modules.Gru, "draws random numbers"),
        (Alpha, "draws random numbers"),
        (Sideways, "depend on the others"),
        (lambda: nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(),
                               nn.Linear(36, 5)), "depend on the others"),
    ],
)  # fmt: skip
def test_all_else_runs_in_turn_with_a_note(make, why):
    model = of(make)
    assert why in model.predict.alone
    assert model.notes[0] == f"clients run in turn: {model.predict.alone}"


def refusing():
    raise FileNotFoundError("no weights.pt here\nsecond line")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Linear(3, 5), "cannot be trained.*cannot be multiplied"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 6)), "gives 6 logits.*5 classes"),
        (lambda: nn.Linear(6, 5), r"shape \(4, 1, 6, 5\)"),
        (lambda: nn.Linear(36, 5).requires_grad_(False), "nothing to train"),
        (lambda: 5, "torch.nn.Module was expected"),
        (refusing, "refusing: it cannot be made.*FileNotFoundError: no weights.pt here$"),
        (nn.LSTM, "LSTM: it cannot be made"),
        (lambda width: nn.Linear(width, 5), "has to be given width"),
        (7, "this is a int"),
        (from_module(modules.Scaled, local=["heed"]), "called 'heed'.*head.weight"),
    ],
)
def test_what_cannot_run_is_refused_in_a_line(make, said):
    with pytest.raises(ValueError, match=said) as caught:
        of(make)
    assert "\n" not in str(caught.value)


def test_a_module_with_a_memory_of_its_own_is_refused():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.head = 0, nn.Linear(36, 5)

        def forward(self, x):
            self.calls += 1
            return self.head(x.flatten(1)) * self.calls

    with pytest.raises(ValueError, match="other logits the second time"):
        of(Counting)


def test_a_model_without_examples_is_a_description():
    model = from_module(modules.Net)
    with pytest.raises(ValueError, match="has not been tried"):
        model.init(generator(0))
    assert build(model, (1, 6, 6), 5, X).predict.alone


def test_several_inputs_and_answers_with_logits():
    mask = (X > 0.5).float()
    model = build(modules.Two, ((1, 6, 6), (1, 6, 6)), 5, (X, mask))
    params = drawn(model)
    hidden = F.relu(F.linear((X * mask).flatten(1), params["inner.weight"], params["inner.bias"]))
    expected = F.linear(hidden, params["head.weight"], params["head.bias"])
    torch.testing.assert_close(model.predict(params, (X, mask)).logits, expected)


def test_a_perceptron_by_name_takes_several_inputs_side_by_side():
    model = build("mlp-8", ((1, 6, 6), (9,)), 5)
    params = drawn(model)
    whole = torch.cat([X.flatten(1), TOKENS.float()], dim=1)
    hidden = F.relu(F.linear(whole, params["layer0.weight"], params["layer0.bias"]))
    expected = F.linear(hidden, params["layer1.weight"], params["layer1.bias"])
    torch.testing.assert_close(model.predict(params, (X, TOKENS)).logits, expected)
    torch.testing.assert_close(model.module(params)(X, TOKENS), expected)
    with pytest.raises(ValueError, match="cnn needs images .*an mlp takes any"):
        build("cnn-4", ((1, 6, 6), (9,)), 5)


def test_bytes_are_read_as_the_network_reads_them():
    whole = (X * 255).byte()
    model = of(nn.Sequential(nn.Flatten(), nn.Linear(36, 5)), whole)
    params = drawn(model)
    torch.testing.assert_close(
        model.predict(params, whole).logits, model.predict(params, whole.float()).logits
    )
    assert of(modules.Tokens, TOKENS.int(), (9,)).predict.alone is None


def test_the_way_back_is_the_users_own_module():
    model = of(modules.Net)
    params = drawn(model)
    for _ in range(3):
        params |= model.predict.learn(params, X)[1]
    module = model.module(params)
    assert isinstance(module, modules.Net)
    assert not module.training
    torch.testing.assert_close(module(X)[0], model.predict(params, X).logits)
    torch.testing.assert_close(module.body[2].running_mean, params["~body.2.running_mean"])
    module.head.weight.data += 1  # is the user's own: nothing of the client's is touched
    assert not torch.equal(module.head.weight, params["head.weight"])


@pytest.mark.parametrize("name", ["mlp-8", "cnn-4", "resnet8-4@6"])
def test_the_way_back_of_a_network_by_name_answers_with_logits(name):
    model = build(name, (1, 6, 6), 5)
    params = drawn(model)
    module = model.module(params)
    torch.testing.assert_close(module(X), model.predict(params, X).logits)
    assert {n: v.shape for n, v in module.state_dict().items()} == {
        n: v.shape for n, v in params.items()
    }
    module(X).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(
    ("local", "names"),
    [
        ("head", {"head.weight", "head.bias"}),
        ([nn.BatchNorm1d], {"body.2.weight", "body.2.bias", "~body.2.running_mean",
                            "~body.2.running_var", "~body.2.num_batches_tracked"}),
        (["*.weight"], {"body.1.weight", "body.2.weight", "head.weight"}),
        (lambda name: name.startswith("body.1"), {"body.1.weight", "body.1.bias"}),
    ],
)  # fmt: skip
def test_what_is_local_never_leaves(local, names):
    model = build(from_module(modules.Net, local=local), (1, 6, 6), 5, X)
    assert model.local == names
    params = drawn(model)
    whole = {STREAM, "~body.2.num_batches_tracked"}
    assert set(params) - set(model.shared(params)) == names | whole


def test_groups_are_called_by_their_classes():
    made = [modules.Net, "mlp", from_module(modules.Net), nn.Linear(2, 2), modules.Net]
    assert group_names(made) == ["Net", "mlp", "Net-2", "Linear", "Net"]


def test_no_examples_at_all_are_predicted_too():
    model = of(modules.Lstm)
    assert model.predict(drawn(model), X[:0]).logits.shape == (0, 5)
