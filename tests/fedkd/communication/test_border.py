"""What is let in and what is turned away: sizes by hand, honest clients, uploads of any kind."""

from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd import algorithms
from fedkd.communication.border import Border
from fedkd.communication.channel import Channel
from fedkd.engines.sequential import sequential
from fedkd.messages import ANY, PayloadSpec, Transform, Upload
from fedkd.rounds.round import nothing_learnt
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig
from tests.conftest import tiny_federation

PLAIN = Channel()


def admitted(payload_spec, uploads, told=None, wave=1000, channel=PLAIN):
    """Who is let in, and why the others are not; clients are numbered from 0."""
    read = dict.fromkeys(range(len(uploads)), told or {})
    border = Border(channel, {"g": payload_spec}, read)
    sent = ((k, "g", upload) for k, upload in enumerate(uploads))
    return [one.client for one in border.admitted(sent, wave)], border.rejected


def says(*values, weight=1.0):
    return Upload({"h": torch.tensor(values)}, torch.tensor(weight))


# Sizes, by hand

PARAMETERS = {"h": PayloadSpec((2,), trained="parameters")}
NUMBERS = {"h": PayloadSpec((2,))}


@pytest.mark.parametrize("trained", ["parameters", "update"])
def test_parameters_are_measured_by_those_that_were_told(trained):
    # Told (3, 4): a root mean square of sqrt(25 / 2) = 3.54, and so up to 3,535.5 are let in.
    told, payload_spec = {"h": torch.tensor([3.0, 4.0])}, {"h": PayloadSpec((2,), trained=trained)}
    uploads = [says(3500.0, 3500.0), says(3600.0, 3600.0), says(0.0, 0.0), says(-5100.0, 0.0)]
    inside, outside = admitted(payload_spec, uploads, told)
    assert inside == [0, 2]
    assert outside == {
        1: "parameters have a root mean square of 3.6e+03, over 1000 times that of those from "
        "which training began (3.54)",
        3: "parameters have a root mean square of 3.61e+03, over 1000 times that of those from "
        "which training began (3.54)",
    }


def test_parameters_are_measured_all_together():
    # A bias of zeros may become anything that is small beside the weights.
    told = {"weight": torch.full((99,), 1.0), "bias": torch.zeros(1)}
    payload_spec = {
        key: PayloadSpec(tuple(v.shape), trained="parameters") for key, v in told.items()
    }
    moved = Upload(told | {"bias": torch.tensor([5000.0])}, torch.tensor(1.0))
    assert admitted(payload_spec, [moved], told) == ([0], {})


def test_parameters_that_were_zeros_may_grow():
    told = {"h": torch.zeros(2)}
    assert admitted(PARAMETERS, [says(99.0, 99.0), says(101.0, 101.0)], told)[0] == [0]


def test_numbers_are_measured_by_the_median_of_the_cohort():
    # Root mean squares 2, 4, 6, 3999, 4001 about a median of 6; then about 4 (the lower of two).
    five = [says(2.0, 2.0), says(4.0, 4.0), says(6.0, -6.0), says(3999.0, 3999.0)]
    assert admitted(NUMBERS, [*five, says(6001.0, 6001.0)])[0] == [0, 1, 2, 3]
    inside, outside = admitted(NUMBERS, [*five[:2], says(4001.0, 4001.0), says(1e30, 1e30)])
    assert inside == [0, 1]
    assert outside[2] == (
        "h has a root mean square of 4e+03, over 1000 times what is usual in the cohort (4)"
    )
    assert "over 1e+09" in outside[3]


def test_small_numbers_are_no_measure():
    # Half of the cohort shows features of zero, as dead units do; others are not to blame.
    assert admitted(NUMBERS, [says(0.0, 0.0), says(0.0, 0.0), says(900.0, 900.0)])[1] == {}


def test_large_numbers_are_no_fault_where_all_have_them():
    assert admitted(NUMBERS, [says(1e6, 1e6), says(3e7, 3e7), says(4e8, 4e8)])[1] == {}
    assert admitted(NUMBERS, [says(1e6, 1e6)])[1] == {}  # nor where there is nobody else


@pytest.mark.parametrize("wave", [1, 2, 3, 4])
def test_waves_are_measured_by_all_that_came_before(wave):
    uploads = [says(1.0, 1.0), says(2.0, 2.0), says(3.0, 3.0), says(1e5, 1e5)]
    inside, outside = admitted(NUMBERS, uploads, wave=wave)
    assert (inside, list(outside)) == ([0, 1, 2], [3])


def test_only_rows_that_came_are_measured():
    payload_spec = {"h": PayloadSpec((ANY, 1), rows=True)}

    def rows(*held):
        sent = torch.full((sum(held), 1), 2000.0)
        return Upload({"h": sent}, torch.tensor(1.0), torch.tensor(held, dtype=torch.float32))

    few, many = rows(0, 0, 0, 1), rows(1, 1, 1, 1)
    assert admitted(payload_spec, [few, many, rows(0, 0, 0, 0)])[1] == {}
    low = many._replace(payload={"h": torch.full((4, 1), 1.9)})
    assert admitted(payload_spec, [low, low, few])[1].keys() == {2}


def test_counts_are_bounded_by_what_there_is():
    payload_spec = {"h": PayloadSpec((2,), most=50)}
    uploads = [says(50.0, 0.0), says(0.0, 51.0), says(-60.0, 0.0)]
    assert admitted(payload_spec, uploads) == (
        [0],
        {
            1: "h goes up to 51, and there are 50 at most",
            2: "h goes up to 60, and there are 50 at most",
        },
    )


def test_distributions_with_noise_are_measured_by_the_others():
    noisy = Channel((Transform(lambda m, g: m, error=torch.inf),))
    payload_spec = {"h": PayloadSpec((2,), simplex=True)}
    uploads = [says(0.7, 0.1), says(-0.2, 1.1), says(1e4, 0.0)]
    assert admitted(payload_spec, uploads, channel=noisy)[0] == [0, 1]


# Honest clients


def quick(name, **settings):
    training = TrainingConfig("momentum", 0.05, epochs=1, batch_size=4)
    kind = algorithms.get(name)
    short = {f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)}
    return kind(**short | settings)


@pytest.mark.parametrize("rate", [1e-6, 1.0])  # with 3, FedGen diverges
@pytest.mark.parametrize("name", algorithms.names())
def test_no_honest_client_is_turned_away_unless_it_diverges(name, rate):
    federation = tiny_federation(sizes=(7, 1, 12, 3, 40))
    algorithm = quick(name, local=TrainingConfig(learning_rate=rate, epochs=2, batch_size=4))
    for current in simulate(algorithm, federation.task, federation.clients, rounds=3):
        assert current.rejected == {}


@pytest.mark.parametrize("name", ["fedgkt", "fedproto", "pooled", "fedmd"])
def test_columns_in_their_own_units_are_no_fault(name):
    # Pixels of 0 to 255, or an income: what all clients have is what is usual.
    federation = tiny_federation()
    settings = {"exchange": "logits"} if name == "fedmd" else {}
    rate = TrainingConfig(learning_rate=1e-9, epochs=1, batch_size=4)
    algorithm = quick(name, local=rate, **settings)
    clients = [
        replace(c, private=replace(c.private, x=1e5 * c.private.x)) for c in federation.clients
    ]
    (current,) = simulate(algorithm, federation.task, clients, rounds=1)
    assert current.rejected == {}


@pytest.mark.parametrize("name", ["fedavg", "fml", "fedkd", "fedgen"])
def test_no_client_counts_for_more_than_there_are_examples(name):
    federation = tiny_federation()  # 7 + 1 + 12 + 3 + 5 = 28 examples
    assert federation.task.private == 28

    def engine(function, task, clients, inputs):
        results = sequential(function, task, clients, inputs)
        weights = {0: 29.0, 1: 28.0}
        return [
            (params, upload._replace(weight=torch.tensor(weights.get(c.id, float(upload.weight)))))
            for c, (params, upload) in zip(clients, results, strict=True)
        ]

    (current,) = simulate(quick(name), federation.task, federation.clients, rounds=1, engine=engine)
    assert current.rejected == {0: "weight 29 is not between 0 and 28"}


def test_no_client_has_more_examples_of_a_label_than_there_are_in_all():
    federation = tiny_federation()

    def engine(function, task, clients, inputs):
        results = sequential(function, task, clients, inputs)
        params, upload = results[2]
        counts = upload.payload["label_counts"] + torch.tensor([28.0, 0, 0, 0, 0])
        results[2] = params, upload._replace(payload=upload.payload | {"label_counts": counts})
        return results

    given = quick("fedgen"), federation.task, federation.clients
    (current,) = simulate(*given, rounds=1, engine=engine)
    assert list(current.rejected) == [2]
    assert "there are 28 at most" in current.rejected[2]


# All of a form at once are what each is alone


class Alone(Border):
    """A border that looks at every upload on its own."""

    def _together(self, given):
        return [None] * len(given)


EVEN = torch.full((3, 4), 0.25)
HELD = torch.tensor([1.0, 0.0, 1.0])
CLAIMS = {
    "numbers": ({"h": PayloadSpec((3, 4))}, Upload({"h": EVEN}, torch.tensor(2.0))),
    "distributions": ({"p": PayloadSpec((3, 4), simplex=True)}, Upload({"p": EVEN})),
    "some rows": (
        {"p": PayloadSpec((3, 4), simplex=True, rows=True), "h": PayloadSpec((3,), rows=True)},
        Upload({"p": EVEN[:2], "h": torch.tensor([1.0, -2.0])}, rows=HELD),
    ),
    "any rows": (
        {"x": PayloadSpec((ANY, 4), rows=True)},
        Upload({"x": EVEN[:2]}, rows=HELD),
    ),
    "classes": (
        {"y": PayloadSpec((3,), below=5)},
        Upload({"y": torch.tensor([0, 4, 2], dtype=torch.int32)}),
    ),
    "counts": (
        {"n": PayloadSpec((3,), most=9.0, least=0.0)},
        Upload({"n": torch.tensor([0.0, 9.0, 2.0])}, torch.tensor(11)),
    ),
    "parameters": (
        {k: PayloadSpec((3, 4), trained="parameters") for k in ("w", "v")},
        Upload({"w": EVEN, "v": 4 * EVEN}, torch.tensor(7)),
    ),
    "nothing": ({}, Upload({})),
    "no numbers": ({"h": PayloadSpec((0, 4), simplex=True, least=1.0)}, Upload({"h": EVEN[:0]})),
}


def changed(**values):
    return lambda u: u._replace(**values)


def each_of(change):
    return lambda u: u._replace(payload={k: change(v) for k, v in u.payload.items()})


HOSTILE = {
    "honest": lambda u: u,
    "not a number": each_of(lambda v: v * torch.nan),
    "infinite": each_of(lambda v: v + torch.inf),
    "negative": each_of(lambda v: -v - 1),
    "twice": each_of(lambda v: 2 * v),
    "a little less than all": each_of(lambda v: v - v / 2000),
    "from one to another": each_of(lambda v: v + v.new_tensor([-1, 1, 0, 0][: v.shape[-1]])),
    "half below": each_of(lambda v: (v - 0.5).to(v.dtype)),
    "within rounding": each_of(lambda v: v * (1 + v.new_tensor(1e-5))),
    "large": each_of(lambda v: 1_000 * v),
    "huge": each_of(lambda v: (1e12 * v.double()).to(v.dtype)),
    "as large as can be": each_of(lambda v: (v.double() * 0 + 3.4e38).to(v.dtype)),
    "one row more": each_of(lambda v: torch.cat([v, v[:1]])),
    "one row less": each_of(lambda v: v[:-1]),
    "turned": each_of(lambda v: v.movedim(0, -1)),
    "one axis more": each_of(lambda v: v.unsqueeze(0)),
    "strided": each_of(lambda v: torch.stack([v, v], dim=-1)[..., 0]),
    "with a gradient": each_of(lambda v: v.float().requires_grad_()),
    "double": each_of(lambda v: v.double()),
    "whole": each_of(lambda v: v.int()),
    "no key": lambda u: u._replace(payload=dict(list(u.payload.items())[1:])),
    "another key": lambda u: u._replace(payload=u.payload | {"more": EVEN}),
    "keys in another order": lambda u: u._replace(payload=dict(reversed(u.payload.items()))),
    "half a row": lambda u: u._replace(rows=HELD / 2),
    "rows in bytes": lambda u: u._replace(rows=HELD.bool()),
    "other rows": changed(rows=torch.tensor([0.0, 1.0, 1.0])),
    "one row named": changed(rows=torch.tensor([0.0, 1.0, 0.0])),
    "rows that add up": changed(rows=torch.tensor([2.0, 0.0, 0.0])),
    "rows that cancel": changed(rows=torch.tensor([1.0, 2.0, -1.0])),
    "rows that are none": changed(rows=torch.tensor([1.0, torch.nan, 1.0])),
    "a longer list": changed(rows=torch.tensor([1.0, 0.0, 1.0, 0.0])),
    "a table of rows": changed(rows=torch.ones(1, 2)),
    "no rows": changed(rows=None),
    "a negative weight": changed(weight=torch.tensor(-1.0)),
    "a weight that is none": changed(weight=torch.tensor(torch.nan)),
    "a heavy weight": changed(weight=torch.tensor(1e15)),
    "two weights": changed(weight=torch.ones(2)),
}


def judge(claim, kinds, wave, told, noisy):
    """Uploads of some kinds at a border, which has to find what one finds that looks at each."""
    payload_spec, honest = CLAIMS[claim]
    uploads = [HOSTILE[kind](honest) for kind in kinds]
    noise = Transform(lambda m, g: m, error=torch.inf if noisy else 0.0)
    read = dict.fromkeys(range(len(uploads)), {key: told * EVEN for key in payload_spec})
    found = []
    for kind in (Border, Alone):
        border = kind(Channel((noise,)), {"g": payload_spec}, read)
        sent = ((k, "g", upload) for k, upload in enumerate(uploads))
        found.append((list(border.admitted(sent, wave)), border.rejected))
    (inside, outside), (expected, reasons) = found
    assert outside == reasons
    assert len(inside) + len(outside) == len(uploads)
    for one, other in zip(inside, expected, strict=True):
        assert (one.client, one.weight) == (other.client, other.weight)
        assert list(one.payload) == list(other.payload)
        pairs = [(one.payload[key], other.payload[key]) for key in one.payload]
        assert all(torch.equal(*pair) for pair in pairs)
        assert one.rows is other.rows or torch.equal(one.rows, other.rows)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("claim", CLAIMS)
def test_each_kind_is_judged_at_once_as_alone(claim, noisy):
    judge(claim, HOSTILE, 1000, 0.5, noisy)


@pytest.mark.parametrize("claim", CLAIMS)
@settings(deadline=None, max_examples=15)
@given(
    kinds=st.lists(st.sampled_from(sorted(HOSTILE)), min_size=1, max_size=8),
    wave=st.sampled_from([2, 1000]),
    told=st.sampled_from([1e-6, 0.5]),
    noisy=st.booleans(),
)
def test_all_of_a_form_at_once_are_judged_as_each_alone(claim, kinds, wave, told, noisy):
    judge(claim, kinds, wave, told, noisy)


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_honest_are_found_at_once(claim):
    payload_spec, honest = CLAIMS[claim]
    border = Border(PLAIN, {"g": payload_spec}, dict.fromkeys(range(3), {}))
    odd = honest._replace(weight=torch.tensor(-1.0))
    given = [(upload, payload_spec, {}, 1.0) for upload in (honest, odd, honest)]
    assert [one is not None for one in border._together(given)] == [True, False, True]


@pytest.mark.parametrize(
    "kind", [torch.float16, torch.bfloat16, torch.float8_e5m2, torch.uint16, torch.complex64]
)
def test_lists_of_rows_are_of_a_type_that_counts(kind):
    # Of 257 ones bfloat16 counts 256: who sends as many rows would leave the server one short.
    payload_spec = {"p": PayloadSpec((300,), rows=True)}
    named = [torch.cat([torch.ones(n), torch.zeros(300 - n)]) for n in (256, 257, 256)]
    lists = [named[0].to(kind), named[1].to(kind), named[2]]
    uploads = [Upload({"p": torch.ones(256)}, torch.tensor(1.0), rows) for rows in lists]
    inside, outside = admitted(payload_spec, uploads)
    assert inside == [2]
    assert outside == dict.fromkeys(
        [0, 1], f"its list of rows has type {kind}, which does not count"
    )


# Uploads of any kind

ODD = {
    "a list": lambda u: [u.payload],
    "nothing": lambda u: None,
    "a dictionary": lambda u: u.payload,
    "no payload": lambda u: u._replace(payload=None),
    "a payload that is a list": lambda u: u._replace(payload=list(u.payload)),
    "a payload that is a tensor": lambda u: u._replace(payload=torch.zeros(3)),
    "an integer key": lambda u: u._replace(payload={0: torch.zeros(1)} | u.payload),
    "no key": lambda u: u._replace(payload={None: torch.zeros(1)}),
    "a list of numbers": lambda u: u._replace(payload=dict.fromkeys(u.payload, [0.0])),
    "words": lambda u: u._replace(payload=dict.fromkeys(u.payload, "words")),
    "sparse": lambda u: u._replace(payload={k: v.to_sparse() for k, v in u.payload.items()}),
    "rows of sparse": lambda u: u._replace(
        payload={k: v.reshape(1, -1).to_sparse_csr() for k, v in u.payload.items()}
    ),
    "nested": lambda u: u._replace(payload={k: nested(v) for k, v in u.payload.items()}),
    "without memory": lambda u: u._replace(payload={k: v.to("meta") for k, v in u.payload.items()}),
    "quantised": lambda u: u._replace(
        payload={
            k: torch.quantize_per_tensor(v.float(), 0.1, 0, torch.quint8)
            for k, v in u.payload.items()
        }
    ),
    "complex": lambda u: u._replace(payload={k: v * 1j for k, v in u.payload.items()}),
    "yes and no": lambda u: u._replace(payload={k: v.bool() for k, v in u.payload.items()}),
    "a single number": lambda u: u._replace(payload={k: v.sum() for k, v in u.payload.items()}),
    "nothing in it": lambda u: u._replace(payload={k: v[:0] for k, v in u.payload.items()}),
    "a weight of words": lambda u: u._replace(weight="heavy"),
    "no weight": lambda u: u._replace(weight=None),
    "a complex weight": lambda u: u._replace(weight=torch.tensor(1j)),
    "many weights": lambda u: u._replace(weight=torch.ones(3)),
    "rows of words": lambda u: u._replace(rows="all"),
    "rows of nothing": lambda u: u._replace(rows=torch.zeros(0)),
    "a table of rows": lambda u: u._replace(rows=torch.ones(2, 2)),
    "too many rows": lambda u: u._replace(rows=torch.ones(1000)),
    "sparse rows": lambda u: u._replace(rows=torch.ones(5).to_sparse()),
}
KINDS = ("local", "fd", "fedmd", "cfd", "fedavg", "fedgen", "fedgkt", "fedkd", "pooled")
HALF = Transform(lambda m, g: {k: v.half() for k, v in m.items()}, lambda m: float_again(m))
LOSSY = [(name, Channel((HALF,))) for name in ("fd", "fedmd", "fedavg")]


@cache
def trained(name):
    """Three clients, and what they give back in the first round."""
    federation, kept = tiny_federation(sizes=(5, 3, 4)), []

    def engine(function, task, clients, inputs):
        kept.extend(sequential(function, task, clients, inputs))
        return kept

    next(simulate(quick(name), federation.task, federation.clients, rounds=1, engine=engine))
    return federation, kept


@cache
def without(name, culprits):
    """The server after a round in which the others alone took part."""
    federation, kept = trained(name)
    others = [k for k in range(3) if k not in culprits]
    (current,) = simulate(
        *(quick(name), federation.task, federation.clients),
        rounds=1,
        engine=lambda function, task, clients, inputs: [kept[client.id] for client in clients],
        sample=lambda clients, generator: others,
    )
    return current.server


@pytest.mark.filterwarnings("ignore:.*(nested|Sparse CSR|quantiz).*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz.*:DeprecationWarning")
@pytest.mark.parametrize(("name", "channel"), [*((name, PLAIN) for name in KINDS), *LOSSY])
@settings(deadline=None, max_examples=50)
@given(odd=st.sampled_from(sorted(ODD)), culprits=st.frozensets(st.integers(0, 2), min_size=1))
def test_any_upload_may_be_turned_away_and_none_ends_the_round(name, channel, odd, culprits):
    federation, kept = trained(name)

    def engine(function, task, clients, inputs):
        return [
            (params, ODD[odd](upload)) if number in culprits else (params, upload)
            for number, (params, upload) in enumerate(kept)
        ]

    (current,) = simulate(
        *(quick(name), federation.task, federation.clients),
        rounds=1,
        engine=engine,
        channel=channel,
    )
    assert set(current.rejected) <= culprits
    assert current.failed == {}
    if name == "local" or channel is not PLAIN:  # of nothing, or in half precision, some may pass
        return
    assert set(current.rejected) == culprits
    said = nothing_learnt(1, current.uploaders, current.rejected)
    assert (said is None) == (len(culprits) < 3)
    if len(culprits) < 3:
        expected = without(name, culprits)
        assert all(torch.equal(current.server[key], expected[key]) for key in expected)


@pytest.mark.filterwarnings("ignore:.*nested.*:UserWarning")
@pytest.mark.parametrize("odd", ["a list", "nothing", "sparse", "nested", "an integer key"])
def test_what_comes_is_looked_at_as_what_is_sent(odd):
    with pytest.raises(ValueError, match="it is a|no plain tensor|which is no name"):
        PLAIN.read_up(ODD[odd](says(1.0, 2.0)), NUMBERS)


def float_again(message):
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in message.items()}


def nested(value):
    return torch.nested.nested_tensor([value.reshape(-1), value.reshape(-1)[:1]])


@pytest.mark.parametrize("result", [None, 3, (), ({},), "words"])
def test_a_result_that_is_none_is_a_client_that_failed(result):
    federation = tiny_federation(sizes=(5, 3, 4))

    def engine(function, task, clients, inputs):
        results = sequential(function, task, clients, inputs)
        return [result, *results[1:]]

    (current,) = simulate(
        quick("fedavg"), federation.task, federation.clients, rounds=1, engine=engine
    )
    assert list(current.failed) == [0]
    assert "not parameters and an upload" in current.failed[0]
