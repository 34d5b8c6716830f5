"""Rounds whose server learns a secure sum: the same numbers, other bytes, and what is lost."""

import math

import pytest
import torch

from fedkd import algorithms
from fedkd.communication import compression
from fedkd.communication.aggregation import Aggregation
from fedkd.communication.channel import Channel
from fedkd.communication.private_size import PrivateSize
from fedkd.core import Failure
from fedkd.engines.sequential import sequential
from fedkd.privacy.client_noise import ClientNoise
from fedkd.privacy.secure_sum import SecureSum, overhead
from fedkd.rounds.round import nothing_learnt
from fedkd.rounds.synchronous import simulate
from tests.contracts.test_algorithms import small
from tests.fedkd.communication.test_aggregation import SUMS

SECURE = Aggregation(secure=SecureSum())


def run(algorithm, federation, aggregation=SECURE, rounds=1, **more):
    federated = algorithm, federation.task, federation.clients
    return list(simulate(*federated, rounds=rounds, aggregation=aggregation, **more))


def without(*lost):
    """An engine of which some clients give no result."""

    def engine(function, task, clients, inputs):
        found = sequential(function, task, clients, inputs)
        return [Failure("gone") if c.id in lost else r for c, r in zip(clients, found, strict=True)]

    return engine


@pytest.mark.parametrize("name", SUMS)
def test_the_server_learns_what_it_would_have_been_told(name, tiny):
    federation, algorithm = tiny(["mlp-8"], sizes=(7, 1, 12, 3, 5)), small(name, **SUMS[name])
    plain, secure = (run(algorithm, federation, how)[0] for how in (None, SECURE))
    assert secure.rejected == {}
    assert secure.uploads == {}
    assert plain.server.keys() == secure.server.keys() or name == "fd"
    for key in secure.server.keys() & plain.server.keys():
        # Five clients: steps of 2^-24 of the ring, in weights a 28th of the whole.
        torch.testing.assert_close(secure.server[key], plain.server[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["variance", "entropy-era", "density"])
def test_rows_that_are_weighted_are_summed_with_their_weights(way, tiny):
    federation, algorithm = tiny(["mlp-8"], sizes=(7, 1, 12, 3, 5)), small("dsfl", aggregation=way)
    plain, secure = (run(algorithm, federation, how)[0] for how in (None, SECURE))
    assert secure.rejected == {}
    assert secure.uploads == {}
    torch.testing.assert_close(
        secure.server["consensus"], plain.server["consensus"], rtol=1e-3, atol=1e-3
    )
    mean = run(small("dsfl", aggregation="sa"), federation)[0].server["consensus"]
    assert not torch.allclose(mean, plain.server["consensus"], atol=1e-2)
    assert secure.ledger.up["probabilities"] == 5 * 4 * 11 * 5
    assert secure.ledger.up["row weights"] == 5 * 4 * 11
    assert "nearness" not in secure.ledger.up


def test_groups_that_are_averaged_apart_have_sums_of_their_own(tiny):
    federation, algorithm = tiny(["mlp-8", "mlp-9"], sizes=(7, 3, 12, 3, 5)), small("fedavg")
    plain, secure = (run(algorithm, federation, how)[0] for how in (None, SECURE))
    for key, value in plain.server.items():
        torch.testing.assert_close(secure.server[key], value, rtol=1e-4, atol=1e-4)


def test_who_drops_out_is_left_out(tiny):
    federation, algorithm = tiny(["mlp-8"], sizes=(4,) * 10), small("fedmd")
    gone = without(1, 4, 7)
    plain, secure = (run(algorithm, federation, how, engine=gone)[0] for how in (None, SECURE))
    assert sorted(secure.failed) == [1, 4, 7]
    expected = plain.server["consensus"]
    torch.testing.assert_close(secure.server["consensus"], expected, rtol=0, atol=1e-6)


def test_of_too_few_who_answer_the_server_learns_nothing(tiny):
    federation, algorithm = tiny(["mlp-8"], sizes=(4,) * 10), small("fedmd")
    first, second = run(algorithm, federation, rounds=2, engine=_later(without(*range(6))))
    assert set(second.rejected) == {6, 7, 8, 9}
    assert "4 of 10 clients answered, and a secure sum takes 6" in second.rejected[6]
    assert torch.equal(first.server["consensus"], second.server["consensus"])
    said = nothing_learnt(2, second.uploaders, second.rejected)
    assert "every upload was turned away" in said


def _later(engine):
    """Everybody in the first round, then an engine."""
    calls = []

    def both(*given):
        calls.append(given)
        return sequential(*given) if len(calls) == 1 else engine(*given)

    return both


def test_a_group_of_one_has_no_sum(tiny):
    federation, algorithm = tiny(["mlp-8", "mlp-9"], sizes=(4, 4, 4)), small("fedavg")
    (only,) = run(algorithm, federation)
    alone = [c.id for c in federation.clients if c.group == "mlp-9"]
    assert list(only.rejected) == alone == [1]
    assert "1 of 1 clients answered, and a secure sum takes 2" in only.rejected[1]


def test_bytes_are_of_vectors_keys_and_shares(tiny):
    federation, algorithm = tiny(["mlp-8"], sizes=(4,) * 5), small("dsfl")
    (found,) = run(algorithm, federation)
    up, down = overhead(5, 5)
    assert found.ledger.up == {"probabilities": 5 * 4 * 11 * 5, **up}
    assert found.ledger.down == down  # nothing is broadcast before there is a consensus
    (found,) = run(small("fedavg"), federation)
    size = sum(value.numel() for value in federation.clients[0].params.values())
    vectors = {k: v for k, v in found.ledger.up.items() if not k.startswith("mask.")}
    assert vectors.pop("weight") == 5 * 4
    assert sum(vectors.values()) == 5 * 4 * size
    (found,) = run(small("cfd"), federation)  # its code of few bits is no vector of a ring
    assert found.ledger.up["probabilities"] == 5 * 4 * 11 * 5


def test_what_is_no_distribution_can_no_longer_be_seen(tiny):
    # The border turns away who says everything twice; of a masked vector it cannot tell.
    federation, algorithm = tiny(["mlp-8"], sizes=(4,) * 5), small("fedmd")

    def engine(*given):
        params, upload = (found := sequential(*given))[0]
        twice = {key: 2 * value for key, value in upload.payload.items()}
        return [(params, upload._replace(payload=twice)), *found[1:]]

    plain, secure = (run(algorithm, federation, how, engine=engine)[0] for how in (None, SECURE))
    assert list(plain.rejected) == [0]
    assert secure.rejected == {}
    assert secure.server["consensus"].sum(dim=1).mean() == pytest.approx(1.2, abs=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "aggregation", "channel", "said"),
    [
        (small("fd"), SECURE, Channel(), "FD .* needs each upload on its own"),
        (small("feddf"), SECURE, Channel(), "FedDF .* needs each upload on its own"),
        (small("fedmd", aggregation="filter"), SECURE, Channel(), "FedMD .* needs each upload"),
        (small("fedmd"), SECURE, compression.channel("uint8"), "take compression none"),
        (
            small("fedmd"),
            Aggregation(ClientNoise(1.0), SecureSum()),
            Channel(),
            "take one of them",
        ),
        (
            small("fedavg"),
            Aggregation(secure=SecureSum(limit=1e7)),
            Channel(),
            "28 private examples are too many for the weights of 5 clients",
        ),
    ],
    ids=["fd", "feddf", "rows", "compression", "noise", "weights"],
)
def test_what_is_no_sum_of_vectors_is_refused(algorithm, aggregation, channel, said, tiny):
    with pytest.raises(ValueError, match=said):
        run(algorithm, tiny(), aggregation, channel=channel)


def test_hidden_sizes_need_no_digits_for_weights(tiny):
    channel = Channel(private_size=PrivateSize("hidden"))
    federation, coarse = tiny(["mlp-8"]), Aggregation(secure=SecureSum(limit=1e4))
    secure, plain = (
        run(small("fedavg"), federation, how, channel=channel)[0] for how in (coarse, None)
    )
    step = 2.0 ** -SecureSum(limit=1e4).digits(5)
    for key, value in plain.server.items():
        assert (secure.server[key] - value).abs().max() <= step / 2 + 1e-6
    assert math.log2(step) == -15


def test_all_algorithms_with_a_sum_are_tried():
    assert set(SUMS) <= set(algorithms.names())
