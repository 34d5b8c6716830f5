"""What a server is told of how many examples a client holds."""

import math
from dataclasses import replace

import pytest
import torch

from fedkd import algorithms
from fedkd.communication.channel import Channel
from fedkd.communication.private_size import PrivateSize, check_disclosure
from fedkd.messages import Upload
from fedkd.privacy import Gaussian
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig
from tests import by_default

ONE = TrainingConfig(learning_rate=0.05, epochs=1, batch_size=4)
HIDDEN, NOISY = Channel(private_size=PrivateSize("hidden")), PrivateSize("noisy", 2.0)


def weights(name, federation, channel, seed=0, rounds=1):
    done = simulate(
        algorithms.get(name)(local=ONE),
        *(federation.task, federation.clients),
        **{"rounds": rounds, "channel": channel, "seed": seed},
    )
    return [[float(u.weight) for u in r.uploads.values()] for r in done]


def test_a_hidden_size_is_neither_sent_nor_weighed_and_the_mean_is_a_plain_one(tiny, double):
    federation = tiny(["mlp-8"], sizes=(9, 4, 6))
    algorithm = algorithms.get("fedavg")(local=ONE)
    for channel, bytes_of_weights in ((Channel(), 3 * 8), (HIDDEN, 0)):
        (current,) = simulate(
            algorithm, federation.task, federation.clients, rounds=1, channel=channel
        )
        assert current.ledger.up["weight"] == bytes_of_weights
    assert weights("fedavg", federation, HIDDEN) == [[1.0, 1.0, 1.0]]
    for name, mean in current.server.items():
        sent = [u.payload[name.partition("/")[2]] for u in current.uploads.values()]
        assert torch.allclose(mean, sum(sent) / 3, rtol=1e-6)


def test_a_noisy_size_has_noise_of_each_client_and_round_and_is_one_at_the_least():
    upload = Upload({}, torch.tensor(100))
    seen = torch.tensor(
        [float(NOISY.sent(upload, generator(0, "up", k)).weight) for k in range(4000)]
    )
    assert seen.mean() == pytest.approx(100, abs=0.2)  # six standard errors of 2 / sqrt 4000
    assert seen.std() == pytest.approx(2, abs=0.14)
    few = [NOISY.sent(upload._replace(weight=torch.tensor(1)), generator(k)) for k in range(50)]
    assert min(float(one.weight) for one in few) == 1.0


def test_a_noisy_size_is_drawn_anew_for_each_upload(tiny):
    federation = tiny(["mlp-8"], sizes=(9, 9, 9))
    drawn = weights("fedavg", federation, Channel(private_size=NOISY), rounds=2)
    assert len({weight for one in drawn for weight in one}) == 6
    assert weights("fedavg", federation, Channel(private_size=NOISY), rounds=2) == drawn
    assert weights("fedavg", federation, Channel(private_size=NOISY), seed=1, rounds=2) != drawn


@pytest.mark.parametrize("told", [PrivateSize("hidden"), NOISY])
def test_where_nobody_is_told_a_size_nothing_changes(told, tiny):
    federation = tiny(sizes=(9, 4, 6))
    assert weights("fedmd", federation, Channel(private_size=told)) == [[1.0, 1.0, 1.0]]


def test_a_weight_that_is_no_number_is_turned_away_as_before():
    for weight in (math.nan, math.inf):
        sent = NOISY.sent(Upload({}, torch.tensor(weight)), generator(0))
        with pytest.raises(ValueError, match="is not between 0"):
            Channel().read_up(sent, {})
    two = Upload({}, torch.ones(2))
    assert PrivateSize("hidden").sent(two, generator(0)) is two


def test_an_upload_of_a_size_is_a_release_where_the_server_weights_by_it():
    assert NOISY.events(weighted=True) == (Gaussian(2.0),)
    assert NOISY.events(weighted=False) == PrivateSize("hidden").events(weighted=True) == ()
    assert PrivateSize().events(weighted=False) == ()
    with pytest.raises(ValueError, match="told as it is"):
        PrivateSize().events(weighted=True)


@pytest.mark.parametrize("name", algorithms.names())
def test_payloads_that_tell_a_size_say_so(name, tiny, monkeypatch):
    # Each record is there twice: means and shares are what they were, rows and counts are not.
    # Training is replaced, so that nothing else differs.
    if name == "selectivefd":
        pytest.skip("its clients hold out every fifth record, so others where each is there twice")

    def untaught(spec, params, batches, context):
        return tuple(0.99 * value.detach() for value in params.values())

    monkeypatch.setattr("kdcore.training.loop._fit_one", untaught)
    federation, algorithm = tiny(["mlp-8"], sizes=(6, 6), held=3), by_default.make(name, local=ONE)

    def counts(clients):
        (one,) = simulate(algorithm, federation.task, clients, rounds=1)
        return {
            key: (len(v), round(float(v.double().sum()), 3))
            for key, v in one.uploads[0].payload.items()
        }

    def doubled(examples):
        return Examples(examples.x, examples.y, examples.rows.repeat(2))

    before = counts(federation.clients)
    after = counts([replace(c, private=doubled(c.private)) for c in federation.clients])
    spec = algorithm.payload_spec(federation.task, "mlp-8")
    changed = {key for key, value in before.items() if after[key] != value}
    assert changed == {key for key, one in spec.items() if one.tells_size}
    if changed:
        with pytest.raises(ValueError, match=f"private_size hidden: {name} sends"):
            check_disclosure(PrivateSize("hidden"), name, spec)
    check_disclosure(PrivateSize(), name, spec)


def test_what_is_no_way_to_tell_is_refused():
    with pytest.raises(ValueError, match="public, noisy, hidden"):
        PrivateSize("secret")
    with pytest.raises(ValueError, match="positive and finite"):
        PrivateSize("noisy", 0.0)
