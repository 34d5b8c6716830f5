"""What the rounds of a federation have released of each client's data."""

import math

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

from fedkd.privacy import Gaussian, Ledger, RandomizedResponse
from fedkd.privacy.accounting import COARSE
from fedkd.privacy.spending import Cost, RoundCosts, Spending, enough_noise

DELTA = 1e-5
SMALL, LARGE = (Gaussian(1.1, 4, 0.25),), (Gaussian(1.1, 16, 0.0625),)
COSTS = RoundCosts("record", "add", DELTA, {0: SMALL, 1: LARGE, 7: SMALL})


def by_hand(*parts):
    """Epsilon by the library alone: (noise, rate, how often) each."""
    accountant = PLDAccountant()
    for noise, rate, count in parts:
        gaussian = dp_accounting.GaussianDpEvent(noise)
        sampled = dp_accounting.PoissonSampledDpEvent(rate, gaussian) if rate < 1 else gaussian
        accountant.compose(sampled, count)
    return accountant.get_epsilon(DELTA)


def after(*cohorts, costs=COSTS):
    spent = Spending(costs)
    for cohort in cohorts:
        spent = spent.after(cohort)
    return spent


def test_steps_count_for_those_who_took_part_and_for_nobody_else():
    spent = after([0, 1], [], [0, 1], [0])
    assert spent.rounds == 4
    assert spent.ledger(0).events == (Gaussian(1.1, 12, 0.25),)
    assert spent.ledger(1).events == (Gaussian(1.1, 32, 0.0625),)
    assert spent.ledger(7).events == ()
    assert spent.guarantee(7).epsilon == 0.0
    assert spent.guarantee(0).epsilon == pytest.approx(by_hand((1.1, 0.25, 12)), rel=0.01)
    assert spent.guarantee(1).epsilon == pytest.approx(by_hand((1.1, 0.0625, 32)), rel=0.01)


def test_the_record_is_of_whom_most_has_been_released_and_can_be_read_back():
    spent = after([0, 1], [1], [1])
    of_all = spent.of_all()
    assert spent.worst() == 0 == int(max(of_all, key=of_all.get))
    said = spent.record()
    assert (said["unit"], said["relation"], said["delta"]) == ("record", "add", DELTA)
    assert (said["client"], said["epsilon"]) == (0, of_all["0"])
    assert Ledger.from_record(said) == spent.ledger(0)
    assert after(*[[1]] * 9).worst() == 1
    assert after().record()["epsilon"] == 0.0


def test_a_sample_of_clients_costs_all_of_them_whoever_is_in_it():
    costs = RoundCosts(
        "client", "add", DELTA, dict.fromkeys(range(5), ()), (Gaussian(2.0, 1, 0.3),)
    )
    spent = after([], [2], [2, 4], costs=costs)
    assert [spent.ledger(k).events for k in (0, 2)] == [(Gaussian(2.0, 3, 0.3),)] * 2
    assert spent.guarantee(0).epsilon == pytest.approx(by_hand((2.0, 0.3, 3)), rel=0.01)


def test_no_epsilon_is_claimed_where_something_is_covered_by_no_event():
    bare = RoundCosts("record", "add", DELTA, {0: SMALL}, beyond=("means", "rows"))
    said = after([0], costs=bare).record()
    assert (said["epsilon"], said["beyond"]) == (None, ["means", "rows"])
    no_noise = RoundCosts("record", "add", DELTA, {0: (Gaussian(0.0, 4, 0.25),)})
    assert after([0], costs=no_noise).record()["epsilon"] is None
    assert after([0], costs=no_noise).of_all() == {"0": None}


def test_of_labels_epsilon_is_of_each_and_beside_it_that_of_all_for_the_client():
    own = (RandomizedResponse(0.5, 10, 2),)
    spent = after([0], [0], costs=RoundCosts("label", "replace", DELTA, {0: own, 1: own}))
    assert spent.ledger(0).events == (RandomizedResponse(0.5, 10, 4),)
    said = spent.record()
    assert (said["client"], said["unit"], said["epsilon"]) == (0, "label", 0.5)
    assert said["composed"]["unit"] == "client"
    assert 1.5 < said["composed"]["epsilon"] <= 2.0001
    assert spent.of_all() == {"0": 0.5, "1": 0.0}


@pytest.mark.slow
def test_enough_noise_is_enough_for_everybody_and_not_too_much_for_the_worst_off():
    sizes = (Gaussian(20.0, 3),)
    rounds = [Gaussian(1.0, 3 * steps, rate) for steps, rate in ((4, 0.25), (16, 0.0625), (1, 1.0))]
    costs = [Cost((own,), sizes) for own in rounds]
    noise = enough_noise(4.0, DELTA, costs)
    found = [Ledger("record", "add", tuple(c.at(noise))).guarantee(DELTA).epsilon for c in costs]
    assert 3.97 < max(found) <= 4.0
    less = [c.at(0.99 * noise) for c in costs]
    assert max(Ledger("record", "add", tuple(e)).guarantee(DELTA).epsilon for e in less) > 4.0


@pytest.mark.slow
def test_what_other_releases_cost_is_left_for_noise_to_make_up_for():
    own = (Gaussian(1.0, 12, 0.25),)
    alone = enough_noise(2.0, DELTA, [Cost(own)])
    beside = enough_noise(2.0, DELTA, [Cost(own, (Gaussian(4.0),))])
    assert beside > 1.05 * alone
    with pytest.raises(ValueError, match="no noise is enough"):
        enough_noise(2.0, DELTA, [Cost(own, (Gaussian(0.5),))])


@pytest.mark.parametrize("cohorts", [[[0]], [[0, 1], [1]], [[1]] * 5, [[0, 7], [7]]])
def test_the_worst_is_found_without_looking_at_all(cohorts):
    spent = after(*cohorts)
    epsilons = {k: spent.ledger(k).guarantee(DELTA, interval=COARSE).epsilon for k in (0, 1, 7)}
    assert epsilons[spent.worst()] == max(epsilons.values()) < math.inf
