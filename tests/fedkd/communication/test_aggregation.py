"""Noise on the sum over a cohort: what it is on, how much there is, and what is left as it was."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from fedkd import algorithms
from fedkd.communication.aggregation import Aggregation
from fedkd.communication.channel import Channel
from fedkd.communication.noisy_aggregation import Cohort, bounded, noisy_sum, sensitivity
from fedkd.core import Algorithm
from fedkd.engines.sequential import sequential
from fedkd.messages import ROWS, WEIGHT, PayloadSpec, Received, Transform
from fedkd.privacy.client_noise import ClientNoise
from fedkd.privacy.events import Gaussian
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig
from tests.contracts.test_algorithms import small

SUMS = {
    "cfd": {},
    "dsfl": {},
    "fd": {"leave_one_out": False},
    "fedavg": {},
    "fedkd": {},
    "fedmd": {},
    "fedprox": {},
    "fedproto": {},
    "fml": {},
    "scarlet": {"duration": 1},
    "selectivefd": {},
}
every_sum = pytest.mark.parametrize("name", SUMS)


def run(algorithm, federation, noise, rounds=2, **more):
    return list(
        simulate(
            *(algorithm, federation.task, federation.clients),
            rounds=rounds,
            aggregation=None if noise is None else Aggregation(noise),
            **more,
        )
    )


def test_these_are_all_algorithms_with_a_sum():
    each = {name: algorithms.get(name).properties for name in algorithms.names()}
    declared = {n for n, one in each.items() if one.summand != "none" and not one.divides}
    assert declared - {"local"} == set(SUMS) - {"fd"}


def test_a_quotient_of_two_noisy_sums_is_refused(tiny):
    # Of two Gaussians with mean 0 the quotient is Cauchy's, which has no mean. FedHKD divides the
    # means of a label by the share of it: told noise alone, it says of labels what can be anything.
    federation, algorithm = tiny(["mlp-8"], sizes=(6, 6, 6)), small("fedhkd")
    refused = "FedHKD divides means of labels by how many examples have them, and of two noisy sums"
    with pytest.raises(ValueError, match=refused):
        run(algorithm, federation, ClientNoise(1.0, bound=1.0))
    spec, server = algorithm.payload_spec(federation.task, "mlp-8"), {}
    largest = []
    for seed in range(20):
        dice = generator(seed)
        total = {f"mlp-8/{k}": torch.randn(s.shape, generator=dice) for k, s in spec.items()}
        total[f"mlp-8/{WEIGHT}"] = torch.tensor(3.0)
        after = algorithm.server_from_sum(federation.task, server, total, 3, None)
        largest.append(float(after["known/predictions"].abs().max()))
    assert max(largest) > 20  # of what should be between 0 and 1


@every_sum
def test_without_noise_and_within_the_bound_nothing_changes(name, tiny, double):
    # Clients of one size, since with noise each counts once.
    federation, algorithm = tiny(sizes=(6, 6, 6, 6)), small(name, **SUMS[name])
    plain = run(algorithm, federation, None)
    noisy = run(algorithm, federation, ClientNoise(0.0, bound=1e6))
    for one, other in zip(plain, noisy, strict=True):
        assert one.server.keys() == other.server.keys()
        for key, value in one.server.items():
            torch.testing.assert_close(other.server[key], value, rtol=1e-9, atol=1e-9)


@every_sum
def test_no_client_moves_the_sum_by_more_than_is_declared(name, tiny, double):
    federation, algorithm = tiny(), small(name, **SUMS[name])
    task = federation.task
    group = federation.clients[0].group
    specs = algorithm.payload_spec(task, group)
    told = {key: torch.randn(spec.shape) for key, spec in specs.items()}
    dice = generator(0, "payloads")

    def summand():
        """The bounded part of a client that sends what it likes."""
        size = 10 ** (6 * torch.rand((), generator=dice) - 3)
        payload = {k: size * torch.randn(s.shape, generator=dice) for k, s in specs.items()}
        some = next(iter(specs.values()))
        rows = (torch.rand(some.shape[0], generator=dice) < 0.7).double() if some.rows else None
        upload = Received(0, group, payload, 1e6 * torch.rand(()).item(), rows)
        term = algorithm.summand(bounded(upload, specs, told, 0.8))
        assert all(value == 1 for key, value in term.items() if key.endswith(WEIGHT))
        return torch.cat([v.flatten() for k, v in sorted(term.items()) if not k.endswith(WEIGHT)])

    parts = [summand() for _ in range(60)]
    replaced = max(float((a - b).norm()) for a in parts for b in parts)
    added = max(float(part.norm()) for part in parts)
    allowed = {r: sensitivity(ClientNoise(1.0, 0.8, r), specs) for r in ("replace", "add")}
    assert 0.3 * allowed["replace"] < replaced <= allowed["replace"] * (1 + 1e-9)
    assert 0.3 * allowed["add"] < added <= allowed["add"] * (1 + 1e-9)


def test_noise_is_the_multiplier_times_the_sensitivity_on_every_entry():
    specs = {"prototypes": PayloadSpec((50, 40), rows=True)}
    cohort = Cohort({"a": specs}, {"a": 3.0}, {"a": {}}, {1: {}})
    algorithm = algorithms.get("fedproto")()
    held = torch.ones(50)
    noise = ClientNoise(1e-3, bound=2.0)
    upload = Received(1, "a", {"prototypes": torch.zeros(50, 40)}, 1.0, held)
    found = []
    for index in range(20):
        stream = generator(5, "noise", index)
        uploads = [upload._replace(rows=held)] * 9
        total, _ = noisy_sum(noise, algorithm, uploads, replace(cohort, received={1: {}}), stream)
        found.append(torch.cat([total["prototypes"], total[ROWS].unsqueeze(1) - 9], dim=1))
    drawn = torch.stack(found)  # (20, 50, 41)
    expected = 1e-3 * math.sqrt(50 * 16)  # sqrt(C max(4 B^2, B^2 + 1)) for B = 2
    assert drawn.std().item() == pytest.approx(expected, rel=0.02)
    assert drawn[..., -1].std().item() == pytest.approx(expected, rel=0.1)  # of 1,000 counts
    assert abs(drawn.mean().item()) < 4 * expected / math.sqrt(drawn.numel())
    flat = drawn.flatten(1)
    apart = torch.corrcoef(flat) - torch.eye(20)
    assert apart.abs().max() < 0.15  # rounds draw on their own


def test_noise_is_drawn_for_groups_and_rounds_of_which_nobody_takes_part(tiny):
    federation = tiny(sizes=(6, 6, 6))
    algorithm, noise = small("fedavg"), ClientNoise(1.0, 1.0, "add", 0.5)
    first, second = run(algorithm, federation, noise, sample=_only_first_round())
    assert first.cohort == (0,)
    assert second.cohort == ()
    assert all(not torch.equal(second.server[key], first.server[key]) for key in first.server)


def _only_first_round():
    cohorts = iter([[0], []])
    return lambda clients, stream: next(cohorts)


def test_a_poisson_sample_is_divided_by_the_number_that_was_expected(tiny, double):
    # 2 of 5 answer where 0.6 of 5 = 3 were expected: the mean is their sum over 3, which is 2 / 3
    # of a distribution, and made one again by adding as much to each entry (none is negative).
    federation, algorithm = tiny(sizes=(4,) * 5), small("fedmd")
    told = run(algorithm, federation, None, rounds=1, sample=lambda c, g: [0, 2])[0]
    noise = ClientNoise(0.0, relation="add", rate=0.6)
    found = run(algorithm, federation, noise, rounds=1, sample=lambda c, g: [0, 2])[0]
    expected = told.server["consensus"] * 2 / 3 + 1 / 15
    torch.testing.assert_close(found.server["consensus"], expected)


def test_who_is_turned_away_adds_zeros_and_is_counted(tiny, double):
    federation, algorithm = tiny(sizes=(4,) * 4), small("fedmd")

    def engine(*given):
        results = sequential(*given)
        params, upload = results[3]
        results[3] = (
            params,
            upload._replace(payload={"probabilities": torch.full((11, 5), torch.nan)}),
        )
        return results

    plain = run(algorithm, federation, None, rounds=1, engine=engine)[0]
    found = run(algorithm, federation, ClientNoise(0.0), rounds=1, engine=engine)[0]
    assert list(found.rejected) == [3]
    torch.testing.assert_close(found.server["consensus"], 0.75 * plain.server["consensus"] + 0.05)


def test_uploads_are_not_measured_by_each_other(tiny):
    # One client's huge prototypes would turn away the others', or it would be turned away by them:
    # then replacing a client would change who is heard, and not just what it says.
    federation, algorithm = tiny(sizes=(4,) * 4), small("fedproto")

    def engine(*given):
        results = sequential(*given)
        params, upload = results[0]
        results[0] = (
            params,
            upload._replace(payload={"prototypes": 1e6 * upload.payload["prototypes"] + 1e6}),
        )
        return results

    assert list(run(algorithm, federation, None, rounds=1, engine=engine)[0].rejected) == [0]
    noise = ClientNoise(0.0, bound=1.0)
    assert run(algorithm, federation, noise, rounds=1, engine=engine)[0].rejected == {}


@pytest.mark.parametrize(("z", "held"), [(0.01, [1, 1, 0, 0]), (5.0, [0, 0, 0, 0])], ids=str)
def test_noise_makes_no_label_held_that_nobody_holds(z, held):
    algorithm = algorithms.get("fd")(leave_one_out=False)
    specs = {"means": PayloadSpec((4, 4), simplex=True, rows=True)}
    rows = torch.tensor([1.0, 1.0, 0.0, 0.0])
    uploads = [
        Received(k, "a", {"means": torch.eye(4) * rows.unsqueeze(1)}, 1.0, rows) for k in range(5)
    ]
    cohort = Cohort({"a": specs}, {"a": 5.0}, {"a": {}}, {k: {} for k in range(5)})
    total, count = noisy_sum(ClientNoise(z), algorithm, uploads, cohort, generator(1, "noise"))
    means = algorithm.server_from_sum(None, {}, total, count, None)["means"]
    assert (total[ROWS] > 0).tolist() == [bool(one) for one in held]
    torch.testing.assert_close(means.sum(dim=1), torch.tensor(held, dtype=means.dtype))
    assert means.min() >= 0


@every_sum
def test_what_is_broadcast_after_noise_can_be_read_as_before(name, tiny):
    federation, algorithm = tiny(sizes=(6, 6, 6)), small(name, **SUMS[name])
    for current in run(algorithm, federation, ClientNoise(3.0, bound=1.0), rounds=2):
        assert current.rejected == {}
        assert all(value.isfinite().all() for value in current.server.values())
        for key in {"consensus", "means"} & current.server.keys():
            rows = current.server[key]
            assert rows.min() >= 0
            ones = rows.sum(dim=-1)
            assert ((ones - 1).abs() < 1e-5).logical_or(ones == 0).all()


def test_a_run_with_noise_goes_on_from_a_round_as_if_it_had_not_stopped(tiny):
    federation, algorithm, noise = tiny(), small("dsfl"), ClientNoise(1.0)
    first, second = run(algorithm, federation, noise)
    (resumed,) = run(algorithm, federation, noise, after=first)
    other, _ = run(algorithm, federation, noise, seed=1)
    assert torch.equal(resumed.server["consensus"], second.server["consensus"])
    assert not torch.equal(first.server["consensus"], second.server["consensus"])
    assert not torch.equal(first.server["consensus"], other.server["consensus"])


def test_each_round_has_noise_of_its_own(tiny):
    # Nobody trains, so all predictions stay what they are, and what differs is the noise.
    still = TrainingConfig(epochs=0)
    algorithm = small("fedmd", local=still, distill=still)
    exact, twice = (
        [current.server["consensus"] for current in run(algorithm, tiny(), ClientNoise(z))]
        for z in (0.0, 0.5)
    )
    assert torch.equal(*exact)
    assert not torch.equal(*twice)


def test_events_are_of_the_multiplier_and_the_rate():
    assert ClientNoise(2.0).events() == (Gaussian(2.0),)
    assert ClientNoise(2.0, relation="add", rate=0.1).events() == (Gaussian(2.0, rate=0.1),)


@dataclass(frozen=True)
class Past(algorithms.get("fedmd")):
    """A server that looks at uploads, past the sum."""

    def server_update(self, task, server, uploads, public):
        return super().server_update(task, server, uploads, public)


@pytest.mark.parametrize(
    ("algorithm", "noise", "said"),
    [
        (small("fd"), ClientNoise(1.0), "FD .* needs each upload on its own"),
        (small("fedgen"), ClientNoise(1.0, 1.0), "FedGen .* needs each upload on its own"),
        (small("fedproto"), ClientNoise(1.0), "prototypes: what is sent has no bound"),
        (small("fedmd", exchange="logits"), ClientNoise(1.0), "logits: what is sent has no bound"),
        (small("fedavg"), ClientNoise(1.0), "has no bound; give a norm"),
        (small("dsfl", aggregation="variance"), ClientNoise(1.0), "weighs rows by what they say"),
        (small("dsfl", aggregation="expguard"), ClientNoise(1.0), "needs each upload"),
        (small("fedmd", pretrain=1), ClientNoise(1.0), "FedMD .* needs each upload"),
        (small("local"), ClientNoise(1.0), "Local sends nothing up"),
        (Past(local=TrainingConfig()), ClientNoise(1.0), "Past learns from uploads .* past any"),
    ],
    ids=["fd", "gen", "proto", "logits", "avg", "rows", "each", "met", "local", "past"],
)
def test_what_a_noisy_sum_does_not_cover_is_refused(algorithm, noise, said, tiny):
    assert isinstance(algorithm, Algorithm)
    with pytest.raises(ValueError, match=said):
        run(algorithm, tiny(), noise)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"noise": -1.0}, "noise is -1.0"),
        ({"noise": 1.0, "bound": 0.0}, "bound is 0.0"),
        ({"noise": 1.0, "relation": "remove"}, "relation must be one of replace, add"),
        ({"noise": 1.0, "rate": 0.5}, "Poisson sample"),
    ],
    ids=["noise", "bound", "relation", "rate"],
)
def test_noise_that_cannot_be_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        ClientNoise(**given)


def test_labels_that_clients_randomise_are_refused(tiny):
    channel = Channel((Transform(lambda message, stream: message, error=math.inf),))
    with pytest.raises(ValueError, match="labels that clients randomise"):
        run(small("dsfl"), tiny(), ClientNoise(1.0), channel=channel)
