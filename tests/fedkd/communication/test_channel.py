"""Bytes to the last one, transforms, and the border."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd import algorithms
from fedkd.communication.channel import ROUNDING, Channel
from fedkd.communication.compression import float16
from fedkd.core import Algorithm
from fedkd.messages import ANY, Ledger, PayloadSpec, Transform, Upload, weigh
from fedkd.rounds.round import deploy_all
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig
from tests import by_default

C, P = 5, 11  # classes and public examples of the tiny federation
SIZES = (7, 1, 12, 3, 5)
LABELS_HELD = (5, 1, 5, 3, 5)  # labels run round: a client with n examples holds min(n, C) of them
SHORT = TrainingConfig(learning_rate=0.05, batch_size=8)
# Parameters for 36 inputs and five classes: mlp-8, mlp-7-8, cnn-4-8 (kernels, norms, head).
WEIGHTS = {
    "mlp-8": 36 * 8 + 8 + 8 * 5 + 5,
    "mlp-7-8": 36 * 7 + 7 + 7 * 8 + 8 + 8 * 5 + 5,
    "cnn-4-8": (4 * 9 + 4 + 4) + (8 * 4 * 9 + 8 + 8) + 8 * 5 + 5,
}
ALL_WEIGHTS = 2 * WEIGHTS["mlp-8"] + 2 * WEIGHTS["mlp-7-8"] + WEIGHTS["cnn-4-8"]


def make(name, **settings):
    kind = algorithms.get(name)
    if hasattr(kind, "distill"):
        settings["distill"] = SHORT
    return by_default.make(name, local=SHORT, **settings)


def ledgers(federation, algorithm, **settings):
    task, clients = federation.task, federation.clients
    return [r.ledger for r in simulate(algorithm, task, clients, rounds=2, **settings)]


def distributions(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


# Bytes: the payloads of the papers, float32


@pytest.mark.parametrize(
    ("name", "settings", "up", "down"),
    [
        ("local", {}, {}, {}),
        ("fd", {}, {"means": 4 * C * sum(LABELS_HELD)}, {"means": 5 * 4 * C * C}),
        ("fedmd", {}, {"probabilities": 5 * 4 * C * P}, {"consensus": 5 * 4 * C * P}),
        ("dsfl", {}, {"probabilities": 5 * 4 * C * P}, {"consensus": 5 * 4 * C * P}),
        *(
            (
                name,
                {"public_size": 4},
                {"probabilities": 5 * 4 * C * 4},
                {"consensus": 5 * 4 * C * 4, "rows": 5 * 4 * 4},
            )
            for name in ("fedmd", "dsfl")
        ),
    ],
)
def test_bytes_of_predictions(name, settings, up, down, tiny):
    first, second = ledgers(tiny(sizes=SIZES), make(name, **settings))
    assert first.up == second.up == up
    assert first.down == {}  # there is no consensus yet
    assert second.down == down
    assert (second.bytes_up, second.bytes_down) == (sum(up.values()), sum(down.values()))


@pytest.mark.parametrize("name", ["fedavg", "feddf"])
def test_bytes_of_parameters(name, tiny):
    for ledger in ledgers(tiny(sizes=SIZES), make(name)):
        assert ledger.bytes_down == 4 * ALL_WEIGHTS
        assert ledger.bytes_up == 4 * ALL_WEIGHTS + 5 * 8  # and a number of examples each
        assert ledger.up["weight"] == 5 * 8
        assert ledger.up["head.weight"] == 4 * 8 * 5


WIDTH = 8  # features of the last hidden layer, of all three architectures


@pytest.mark.parametrize(
    ("name", "settings", "down"),
    [
        ("local", {}, 0),
        ("fd", {}, 0),  # the model in use is the client's own, as it was trained
        ("fedmd", {}, 0),
        ("fedgkt", {}, 0),
        ("fml", {}, 0),
        ("fedkd", {}, 0),
        ("fedproto", {"answer": "head"}, 0),
        ("fedproto", {}, 5 * 4 * C * WIDTH),
        ("fedtgp", {}, 5 * 4 * C * WIDTH),
        ("fedgh", {}, 5 * 4 * C * (WIDTH + 1)),
        ("dsfl", {}, 5 * 4 * C * P),
        ("scarlet", {}, 5 * 4 * C * P),  # all are new, and nothing is remembered
        ("dsfl", {"public_size": 4}, 5 * (4 * C * 4 + 4 * 4)),
        *(
            (name, {}, 4 * ALL_WEIGHTS)
            for name in ("fedavg", "fedprox", "feddf", "fedet", "fedbe", "pooled")
        ),
        ("fedhkd", {}, 4 * ALL_WEIGHTS),
        ("fedgen", {}, 4 * ALL_WEIGHTS),  # the average alone, and no generated features
    ],
)
def test_bytes_of_the_models_in_use_after_one_round(name, settings, down, tiny):
    federation, algorithm = tiny(sizes=SIZES), make(name, **settings)
    (current,) = simulate(algorithm, federation.task, federation.clients, rounds=1)
    found = deploy_all(algorithm, federation.task, current).ledger
    assert (found.bytes_up, found.bytes_down) == (0, down)


@pytest.mark.parametrize("name", algorithms.names())
def test_what_deployment_brings_the_next_broadcast_brings_too(name, tiny):
    federation, algorithm = tiny(sizes=SIZES), make(name)
    first, second = simulate(algorithm, federation.task, federation.clients, rounds=2)
    found = deploy_all(algorithm, federation.task, first).ledger.down
    assert found.items() <= second.ledger.down.items()
    used = type(algorithm).deploy is not Algorithm.deploy
    assert used == bool(found)


def test_bytes_of_the_example_of_the_papers():
    # C = 10: FedMD with 5000 public examples sends 200 kB, DS-FL with 1000 sends 40 kB.
    assert weigh({"probabilities": torch.zeros(5000, 10)}).total() == 200_000
    assert weigh({"probabilities": torch.zeros(1000, 10)}).total() == 40_000


def test_only_those_who_take_part_are_weighed(tiny):
    federation = tiny(sizes=SIZES)
    first, second = ledgers(federation, make("fedmd"), sample=lambda clients, generator: [0, 3])
    assert first.bytes_up == second.bytes_up == second.bytes_down == 2 * 4 * C * P


def test_rejected_uploads_have_cost_their_bytes(tiny):
    federation = tiny(sizes=SIZES)
    strict = Channel(max_weight=6.0)  # clients 0 and 2 speak for more examples
    task, clients = federation.task, federation.clients
    (current,) = simulate(make("fedavg"), task, clients, rounds=1, channel=strict)
    assert sorted(current.rejected) == [0, 2]
    assert current.ledger.bytes_up == 4 * ALL_WEIGHTS + 5 * 8


def test_ledgers_add_up():
    parts = [Ledger(Counter(a=1), Counter(b=2)), Ledger(Counter(a=3)), Ledger(Counter(c=4))]
    total = sum(parts, start=Ledger())
    assert (total.up, total.down) == ({"a": 4, "c": 4}, {"b": 2})
    assert (total.bytes_up, total.bytes_down) == (8, 2)


@pytest.mark.parametrize("name", ["fd", "fedmd", "dsfl", "fedavg", "feddf"])
def test_half_precision_halves_the_bytes_of_numbers(name, tiny):
    federation = tiny(sizes=SIZES)
    settings = {"public_size": 4} if name in ("fedmd", "dsfl") else {}
    algorithm = make(name, **settings)
    halved = ledgers(federation, algorithm, channel=Channel((float16(),), (float16(),)))[-1]
    full = ledgers(federation, algorithm)[-1]
    weights = full.up["weight"]  # a number of examples is sent as it is
    assert weights == halved.up["weight"] == (5 * 8 if name in ("fedavg", "feddf") else 0)
    assert 2 * (halved.bytes_up - weights) == full.bytes_up - weights > 0
    rows = full.down["rows"]
    assert rows == halved.down["rows"] == (5 * 4 * 4 if settings else 0)
    assert 2 * (halved.bytes_down - rows) == full.bytes_down - rows > 0


# Transforms


@given(st.integers(0, 10**6), st.integers(2, 30))
def test_half_precision_moves_a_probability_by_no_more_than_it_says(seed, classes):
    stage = float16()
    sharp = distributions(4, classes, seed=seed)
    message = {"p": torch.cat([sharp, (20 * sharp).softmax(-1), torch.eye(classes)])}
    read = stage.decode(stage.encode(message, None))
    assert read["p"].dtype == torch.float32
    assert (read["p"] - message["p"]).abs().max() <= stage.error


def test_half_precision_lets_whole_numbers_pass():
    stage = float16()
    rows = torch.tensor([1, 59_999], dtype=torch.int32)
    assert stage.decode(stage.encode({"rows": rows}, None))["rows"] is rows


def test_half_precision_is_read_in_the_type_of_the_run(double):
    stage = float16()
    sent = stage.encode({"p": torch.ones(2, dtype=torch.float64)}, None)
    assert sent["p"].dtype == torch.float16
    assert stage.decode(sent)["p"].dtype == torch.float64


def test_the_server_averages_what_was_read(tiny):
    federation = tiny(["mlp-8"], sizes=(4, 4))
    algorithm = make("fedavg")
    (current,) = simulate(
        algorithm, federation.task, federation.clients, rounds=1, channel=Channel((float16(),))
    )
    for key, value in current.server.items():
        parts = [c.params[key.removeprefix("mlp-8/")].half().double() for c in current.clients]
        assert torch.equal(value, ((parts[0] + parts[1]) / 2).float())


def test_transforms_are_undone_in_reverse_order():
    plus = Transform(lambda m, g: {"v": m["v"] + 1}, lambda m: {"v": m["v"] - 1})
    times = Transform(lambda m, g: {"v": m["v"] * 2}, lambda m: {"v": m["v"] / 2})
    channel = Channel((plus, times), (times, plus))
    value = torch.tensor([3.0])
    upload = channel.send_up(Upload({"v": value}, torch.tensor(1.0)), None)
    assert upload.payload["v"].item() == 8.0
    assert channel.read_up(upload, {"v": PayloadSpec((1,))}).payload["v"].item() == 3.0
    assert channel.send_down({"v": value}, None)["v"].item() == 7.0
    assert channel.read_down({"v": torch.tensor([7.0])})["v"].item() == 3.0


def noise(scale):
    def encode(message, generator):
        return {
            k: v + scale * torch.randn(v.shape, generator=generator) for k, v in message.items()
        }

    return Transform(encode, error=math.inf)


def test_noise_is_drawn_anew_for_every_client_and_round_and_by_the_seed_alone(tiny):
    federation = tiny(["mlp-8"], sizes=(4, 4, 4))

    def run(seed):
        sent = []
        spy = Transform(lambda m, g: sent.append(torch.rand(1, generator=g).item()) or m)
        list(
            simulate(
                make("fd"),
                federation.task,
                federation.clients,
                rounds=2,
                channel=Channel((spy,), (spy,)),
                seed=seed,
            )
        )
        return sent

    draws = run(0)
    assert len(draws) == 1 + 3 + 3 + 3  # round 1 tells all the same nothing; then three messages
    assert len(set(draws)) == len(draws)
    assert run(0) == draws
    assert not set(run(1)) & set(draws)


def test_a_broadcast_is_encoded_once_and_weighed_for_each(tiny):
    federation = tiny(sizes=SIZES)
    count = []
    spy = Transform(lambda m, g: count.append(sorted(m)) or m)
    for name, messages in (("fedmd", 1), ("dsfl", 1), ("fedavg", 3), ("feddf", 3), ("fd", 5)):
        count.clear()
        ledger = ledgers(federation, make(name), channel=Channel((), (spy,)))[-1]
        first = 3 if name in ("fedavg", "feddf") else 1  # before there is anything to tell
        assert len(count) == first + messages
        assert ledger.bytes_down == ledgers(federation, make(name))[-1].bytes_down


# The border


def read(payload, payload_spec, weight=1.0, rows=None, channel=Channel()):  # noqa: B008
    return channel.read_up(Upload(payload, torch.tensor(weight), rows), payload_spec)


SIMPLEX = {"p": PayloadSpec((3, C), simplex=True)}


def test_what_is_as_claimed_passes_unchanged():
    p = distributions(3, C)
    result = read({"p": p}, SIMPLEX, weight=7.0)
    assert result.payload["p"] is p
    assert float(result.weight) == 7.0


@pytest.mark.parametrize("weight", [0.0, 1e7])
def test_the_ends_of_the_range_of_weights_pass(weight):
    assert read({}, {}, weight).payload == {}


@pytest.mark.parametrize("weight", [-1e-9, 1.1e7, math.inf, math.nan])
def test_weights_beyond_are_turned_away(weight):
    with pytest.raises(ValueError, match=r"weight .* is not between 0 and 1e\+07"):
        read({}, {}, weight)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, r"keys \[\] instead of \['p'\]"),
        ({"q": distributions(3, C)}, r"keys \['q'\] instead of \['p'\]"),
        ({"p": distributions(2, C)}, r"p has shape \(2, 5\) instead of \(3, 5\)"),
        ({"p": distributions(3, C).double()}, "p has type torch.float64 instead of torch.float32"),
        ({"p": torch.eye(3, C).int()}, "p has type torch.int32"),
        ({"p": distributions(3, C) * torch.nan}, "p holds 15 entries that are not finite"),
        ({"p": distributions(3, C) + torch.inf}, "p holds 15 entries that are not finite"),
        ({"p": distributions(3, C).log()}, r"rows that are no distribution \(smallest entry -"),
        ({"p": torch.full((3, C), 0.19)}, r"no distribution .*a sum off by 0\.05"),
    ],
)
def test_what_is_not_as_claimed_is_turned_away_and_told(payload, message):
    with pytest.raises(ValueError, match=message):
        read(payload, SIMPLEX)


@pytest.mark.parametrize("error", [0.0, 2**-12])
def test_the_simplex_is_as_wide_as_rounding_and_transforms_make_it(error):
    channel = Channel((Transform(lambda m, g: m, error=error),))
    slack = ROUNDING + error
    for factor, passes in ((0.99, True), (1.01, False)):
        high = torch.full((3, C), 1 / C + factor * slack)  # sums off by C times as much
        low = torch.tensor([[1 + factor * slack, -factor * slack, 0, 0, 0]] * 3)
        for p in (high, low):
            if passes:
                read({"p": p}, SIMPLEX, channel=channel)
            else:
                with pytest.raises(ValueError, match="no distribution"):
                    read({"p": p}, SIMPLEX, channel=channel)


def test_after_noise_rows_are_no_distributions_and_need_not_be():
    channel = Channel((noise(1.0),))
    sent = channel.send_up(
        Upload({"p": distributions(3, C)}, torch.tensor(1.0)), torch.Generator().manual_seed(0)
    )
    assert torch.equal(channel.read_up(sent, SIMPLEX).payload["p"], sent.payload["p"])
    with pytest.raises(ValueError, match="not finite"):
        read({"p": torch.full((3, C), torch.nan)}, SIMPLEX, channel=channel)


def test_what_a_transform_cannot_decode_is_turned_away():
    def decode(message):
        return {"p": message["codes"].reshape(3, C)}

    channel = Channel((Transform(lambda m, g: m, decode),))
    for payload in ({"p": torch.ones(3, C)}, {"codes": torch.ones(7)}):
        with pytest.raises(ValueError, match="cannot be read"):
            read(payload, SIMPLEX, channel=channel)


# Rows


BY_ROWS = {"means": PayloadSpec((C, C), simplex=True, rows=True)}
HELD = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])


def test_rows_that_are_not_held_do_not_cross_and_are_zeros_at_the_other_side():
    means = distributions(C, C)
    means[HELD == 0] = torch.nan  # whatever is there is never sent
    channel = Channel((float16(),))
    sent = channel.send_up(Upload({"means": means}, torch.tensor(1.0), HELD), None)
    assert sent.payload["means"].shape == (3, C)
    assert weigh(sent.payload) == {"means": 2 * 3 * C}
    result = channel.read_up(sent, BY_ROWS).payload["means"]
    torch.testing.assert_close(result[HELD == 1], means[HELD == 1].half().float())
    assert (result[HELD == 0] == 0).all()


def test_a_client_that_holds_nothing_sends_nothing():
    channel, nothing = Channel(), torch.zeros(C)
    sent = channel.send_up(Upload({"means": distributions(C, C)}, torch.tensor(0.0), nothing), None)
    assert weigh(sent.payload).total() == 0
    assert (channel.read_up(sent, BY_ROWS).payload["means"] == 0).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "rows are named where all are due, or not named"),
        (HELD / 2, "not all 0 or 1"),
        (HELD * torch.nan, "not all 0 or 1"),
        (HELD[:4], r"rows of shape \(4,\)"),
        (torch.ones(C), r"means has shape \(3, 5\) instead of \(5, 5\)"),
    ],
)
def test_rows_that_cannot_be_are_turned_away(rows, message):
    with pytest.raises(ValueError, match=message):
        read({"means": distributions(3, C)}, BY_ROWS, rows=rows)


def test_nobody_may_leave_out_rows_where_all_are_due():
    with pytest.raises(ValueError, match="rows are named where all are due"):
        read({"p": distributions(2, C)}, SIMPLEX, rows=torch.tensor([1.0, 1.0, 0.0]))


# Any number of rows, whole numbers, an algorithm's own coding


ANY_ROWS = {
    "h": PayloadSpec((ANY, 2), rows=True),
    "y": PayloadSpec((ANY,), rows=True, below=3),
}


def test_rows_of_any_number_cross_and_come_back_in_their_places():
    held = torch.tensor([1.0, 0.0, 1.0, 1.0])
    full = {"h": torch.rand(4, 2), "y": torch.tensor([2, 9, 0, 1], dtype=torch.int32)}
    sent = Channel().send_up(Upload(full, torch.tensor(1.0), held), None)
    assert weigh(sent.payload) == {"h": 4 * 3 * 2, "y": 4 * 3}
    result = Channel().read_up(sent, ANY_ROWS).payload
    assert torch.equal(result["h"][held == 1], full["h"][held == 1])
    assert result["y"].tolist() == [2, 0, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.tensor([0, 1], dtype=torch.int32)}, r"y has shape \(2,\) instead of \(3,\)"),
        ({"y": torch.tensor([0, 1, 3], dtype=torch.int32)}, "y goes from 0 to 3, not 0 to 2"),
        ({"y": torch.tensor([0, 1, 2])}, "y has type torch.int64 instead of torch.int32"),
        (
            {"h": torch.zeros(3, 3)},
            r"h has shape \(3, 3\) instead of \(3, 2\), by its list of rows",
        ),
    ],
)
def test_rows_of_any_number_are_checked(change, message):
    payload = {"h": torch.zeros(3, 2), "y": torch.zeros(3, dtype=torch.int32)} | change
    with pytest.raises(ValueError, match=message):
        read(payload, ANY_ROWS, rows=torch.ones(3))


def test_all_of_any_number_may_cross_without_a_list():
    spec = {"h": PayloadSpec((ANY, 2))}
    assert len(read({"h": torch.zeros(7, 2)}, spec).payload["h"]) == 7
    with pytest.raises(ValueError, match=r"h has shape \(7, 3\) instead of \(7, 2\)"):
        read({"h": torch.zeros(7, 3)}, spec)


def test_an_algorithms_own_coding_comes_last_and_only_where_there_is_one():
    channel = Channel((float16(),), (float16(),))
    assert channel.with_algorithm(algorithms.get("fedmd")()) is channel
    with_algorithm = channel.with_algorithm(algorithms.get("cfd")())
    assert with_algorithm.uplink[0] is channel.uplink[0]
    assert (len(with_algorithm.uplink), len(with_algorithm.downlink)) == (3, 3)
