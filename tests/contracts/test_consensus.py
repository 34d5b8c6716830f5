"""What every rule of consensus promises, and in every algorithm that has the choice."""

from dataclasses import fields, replace

import pytest
import torch

from fedkd import algorithms
from fedkd.components.aggregation import Aggregating
from fedkd.consensus import RULES
from fedkd.core import Task
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.messages import Received, summed
from fedkd.rounds.round import public_of
from fedkd.rounds.synchronous import simulate
from fedkd.targets import CLASSES, LABELS, REAL, SEQUENCE
from kdcore import ensemble
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig
from tests.conftest import tiny_federation

pytestmark = pytest.mark.usefixtures("double")
every_rule = pytest.mark.parametrize("rule", RULES)
WITH_CHOICE = [n for n in algorithms.names() if issubclass(algorithms.get(n), Aggregating)]
SUMS = [name for name, rule in RULES.items() if not rule.each]
BY_CLIENT = [name for name, rule in RULES.items() if rule.each]
PLACED = [name for name, rule in RULES.items() if rule.placed]


def said(clients, examples, classes=4, seed=0):
    """(K, P, C), distributions at random."""
    draws = torch.randn(clients, examples, classes, generator=generator(seed, "said"))
    return (3 * draws).softmax(dim=-1)


def sent(rule, q, number):
    """An upload's payload; where it is said how near examples lie, another number for each."""
    near = torch.linspace(0.1, 0.9, len(q)).roll(number)
    return {"probabilities": q} | ({"nearness": near} if rule in PLACED else {})


def agreed(rule, q, numbers=None, server=None, **settings):
    """The consensus of a round, (P, C), of a bare algorithm; and the server's knowledge."""
    algorithm = algorithms.get("dsfl")(aggregation=rule, **settings)
    task = Task({}, q.shape[-1], torch.zeros(q.shape[1], 1))
    uploads = [
        Received(number, "g", sent(rule, one, number), 1.0)
        for number, one in zip(numbers or range(len(q)), q, strict=True)
    ]
    public = public_of(algorithm, task, 0, 1)
    after = algorithm.server_update(task, server or {}, iter(uploads), public)
    return after["consensus"], after


def test_they_are_the_choice_of_those_who_agree_on_labels():
    assert WITH_CHOICE == ["cfd", "dsfl", "fedmd"]
    assert {"sa", "era", "variance", "entropy", "variance-era", "filter", "expguard"} <= set(RULES)
    assert algorithms.get("dsfl")().aggregation == "era"
    assert algorithms.get("fedmd")().aggregation == algorithms.get("cfd")().aggregation == "sa"


@every_rule
def test_the_order_of_clients_does_not_matter(rule):
    q, order = said(7, 9), [3, 0, 6, 2, 5, 1, 4]
    one, other = agreed(rule, q)[0], agreed(rule, q[order], numbers=order)[0]
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@every_rule
def test_clients_who_say_the_same_agree_on_that(rule):
    (q,) = said(1, 9)
    plain = agreed(rule, q.expand(6, *q.shape))[0]
    expected = agreed("era" if RULES[rule].sharpened else "sa", q.unsqueeze(0))[0]
    torch.testing.assert_close(plain, expected, rtol=1e-12, atol=1e-12)


@every_rule
def test_distributions_become_distributions(rule):
    q = said(6, 9)
    q[0] = torch.eye(4)[torch.arange(9) % 4]
    q[1] = 0.25
    for several in (q, q[:1], q[1:2], q[:2]):
        found = agreed(rule, several)[0]
        assert found.min() >= 0
        torch.testing.assert_close(found.sum(dim=-1), torch.ones(9))


@every_rule
def test_a_row_of_which_nobody_says_anything_is_uniform(rule):
    found = agreed(rule, torch.full((5, 3, 4), 0.25))[0]
    torch.testing.assert_close(found, torch.full((3, 4), 0.25))


# By hand: two clients, two classes. (1, 0) varies by 1/4 and (1/4, 3/4) by 1/16, so that the former
# counts four times as much: 4/5 + 1/20 = 17/20. Entropies are 0 and 2 - 3/4 log2(3) = 0.8113 bits,
# so it counts 1 to 0.1887: (1 + 0.1887/4) / 1.1887 = 0.8809.
BY_HAND = {"sa": 0.625, "variance": 0.85, "entropy": 0.880930}


@pytest.mark.parametrize("rule", BY_HAND)
def test_rows_weigh_what_they_weigh_by_hand(rule):
    q = torch.tensor([[[1.0, 0.0]], [[0.25, 0.75]]])
    found = agreed(rule, q)[0][0, 0].item()
    assert found == pytest.approx(BY_HAND[rule], abs=1e-6)
    if rule != "sa":  # sharpened: softmax((p, 1 - p) / T), a logistic function of (2 p - 1) / T
        sharp = agreed(f"{rule}-era", q, temperature=0.5)[0][0, 0].item()
        assert sharp == pytest.approx(1 / (1 + 2.718281828 ** -((2 * found - 1) / 0.5)), abs=1e-6)


def test_weights_by_variance_are_those_of_the_opinion_pool():
    q = said(5, 8)
    pool = ensemble.weighted(q, q.var(dim=-1, correction=0))
    torch.testing.assert_close(agreed("variance", q)[0], pool, rtol=1e-9, atol=1e-12)


def liars(rule, q, **kept):
    """What each client counts for, and its outlier score, after a round."""
    return RULES[rule]().clients(q, torch.zeros(len(q)), **kept)


def test_the_filter_leaves_out_who_lies_apart_by_hand():
    # Places of five clients on a line, from (1, 0) to (0, 1): 0, .05, .1, .15 and .9. The median is
    # .1 and the median deviation .05; .9 is .8 away, over 6 x .0741, the others at most .1.
    share = torch.tensor([0.0, 0.05, 0.1, 0.15, 0.9])
    q = torch.stack([1 - share, share], dim=-1).unsqueeze(1)
    weights, outlying = liars("filter", q)
    assert weights.tolist() == [1, 1, 1, 1, 0]
    assert outlying.tolist() == [0, 0, 0, 0, 1]
    torch.testing.assert_close(agreed("filter", q)[0], torch.tensor([[0.925, 0.075]]))


def test_the_filter_never_leaves_out_the_greater_part():
    for liars_of_ten in range(11):
        (honest,) = said(1, 20)
        q = honest.expand(10, 20, 4).clone()
        q[:liars_of_ten] = said(liars_of_ten, 20, seed=1)
        kept = liars("filter", q)[0]
        assert kept.sum() >= 5
        if liars_of_ten < 5:
            assert kept.tolist() == [0.0] * liars_of_ten + [1.0] * (10 - liars_of_ten)


def test_expguard_by_hand():
    # On a line as above, at 0, .1, .2, .3 and 1, the mean is at .32; in two coordinates all is
    # sqrt(2) as far apart. Scores are distances from it, weights exp(-step (score - least)), and a
    # second round adds the same again.
    share = torch.tensor([0.0, 0.1, 0.2, 0.3, 1.0])
    q = torch.stack([1 - share, share], dim=-1).unsqueeze(1)
    scores = 2**0.5 * torch.tensor([0.32, 0.22, 0.12, 0.02, 0.68])
    server = {}
    for rounds in (1, 2):
        found, server = agreed("expguard", q, server=server)
        torch.testing.assert_close(server["outlying"], rounds * scores)
        weights = (-RULES["expguard"].step * rounds * (scores - scores[3])).exp()
        expected = float((weights * share).sum() / weights.sum())
        assert found[0, 1].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rule", BY_CLIENT)
def test_outlier_scores_are_kept_by_number_and_not_told(rule):
    q = said(4, 6)
    q[3] = q[3].roll(1, -1)
    _, first = agreed(rule, q, numbers=[0, 2, 5, 7])
    assert first["uploaders"].tolist() == [0, 2, 5, 7]
    _, second = agreed(rule, q[:2], numbers=[2, 9], server=first)
    assert second["uploaders"].tolist() == [0, 2, 5, 7, 9]
    assert torch.equal(second["outlying"][[0, 2, 3]], first["outlying"][[0, 2, 3]])
    assert second["outlying"][1] >= first["outlying"][1]
    for name in WITH_CHOICE:
        told = short(name, rule).broadcast(second, 2, "g")
        assert set(told) <= {"consensus", "rows"}


def test_a_rule_of_ones_own_is_known_by_what_it_weighs():
    class Doubled(RULES["sa"]):
        def rows(self, q):
            return 1 + q[..., 0]

    assert Doubled().weighs_rows
    assert {name for name, rule in RULES.items() if rule().weighs_rows} == {
        name for name, rule in RULES.items() if rule.distributions or rule.placed
    }


# In algorithms


def short(name, rule, **settings):
    training = TrainingConfig("momentum", 0.05, epochs=1, batch_size=4)
    kind = algorithms.get(name)
    quick = {f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)}
    bits = {"bits_up": 4} if name == "cfd" else {}
    return kind(**quick | bits | settings, aggregation=rule)


def received(federation, q, rule="sa"):
    clients = federation.clients
    pairs = zip(clients, q, strict=True)
    return [Received(c.id, c.group, sent(rule, one, c.id), 1.0) for c, one in pairs]


@every_rule
@pytest.mark.parametrize("name", WITH_CHOICE)
def test_a_sum_is_enough_where_that_is_said(name, rule):
    if name == "cfd" and rule in PLACED:
        with pytest.raises(ValueError, match="CFD's code is of these alone; take dsfl or fedmd"):
            short(name, rule)
        return
    federation, algorithm = tiny_federation(), short(name, rule)
    task, uploads = federation.task, received(federation, said(5, 11, classes=5), rule)
    server = algorithm.init(task, generator(0))
    public = public_of(algorithm, task, 0, 1)
    if rule in BY_CLIENT:
        assert algorithm.properties.summand == "none"
        with pytest.raises(ValueError, match="needs each upload on its own"):
            algorithm.summand(uploads[0])
        return
    assert algorithm.properties.summand in ("payload", "weighted rows")
    assert (algorithm.properties.summand == "payload") == (rule in ("sa", "era"))
    total, count = summed(algorithm.summand(upload) for upload in reversed(uploads))
    told = algorithm.server_from_sum(task, server, total, count, public)
    expected = algorithm.server_update(task, server, iter(uploads), public)
    assert told.keys() == expected.keys()
    for key, value in told.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", WITH_CHOICE)
def test_a_rule_by_client_is_no_function_of_the_sum(name):
    # Each sends the mean of what all would have sent, so that sums stay what they are.
    federation = tiny_federation()
    q = 0.9 * said(1, 11, classes=5) + 0.1 * said(5, 11, classes=5, seed=1)
    q[4] = q[4].roll(1, -1)
    for rule in BY_CLIENT:
        algorithm = short(name, rule)
        server = algorithm.init(federation.task, generator(0))
        public = public_of(algorithm, federation.task, 0, 1)
        one, other = (
            algorithm.server_update(federation.task, server, received(federation, each), public)
            for each in (q, q.mean(dim=0).expand_as(q))
        )
        assert not torch.allclose(one["consensus"], other["consensus"], rtol=1e-6)


@pytest.mark.parametrize("name", WITH_CHOICE)
def test_the_default_is_what_the_paper_does(name):
    algorithm = algorithms.get(name)()
    assert algorithm.properties == algorithms.get(name).properties
    assert algorithm.properties.summand == "payload"


# What it is refused for


@every_rule
@pytest.mark.parametrize("target", [CLASSES, REAL, LABELS, SEQUENCE], ids=lambda t: t.name)
def test_other_targets_have_the_rules_that_apply_to_them(rule, target):
    algorithm, kind = algorithms.get("fedmd")(aggregation=rule), RULES[rule]
    task = Task({}, 3, torch.zeros(4, 1), target=target, places=2 if target == SEQUENCE else 0)
    applies = (target.simplex or not kind.distributions) and (
        target.sharpened is not None or not kind.sharpened
    )
    if not applies:
        with pytest.raises(ValueError, match="take aggregation sa"):
            algorithm.check(task)
        return
    algorithm.check(task)
    algorithm = algorithm.learning(target)
    values = said(3, 4, classes=6).view(3, 4, 2, 3) if target == SEQUENCE else said(3, 4, classes=3)
    if target == SEQUENCE:
        values = values / values.sum(dim=-1, keepdim=True)
    near = {"nearness": torch.rand(4)} if rule in PLACED else {}
    uploads = [Received(k, "g", {target.sent: one} | near, 1.0) for k, one in enumerate(values)]
    found = algorithm.server_update(task, {}, uploads, public_of(algorithm, task, 0, 1))
    assert found["consensus"].shape == values.shape[1:]
    assert found["consensus"].isfinite().all()


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="aggregation variance is of probabilities.*leave one"):
        algorithms.get("fedmd")(exchange="logits", aggregation="variance")
    with pytest.raises(ValueError, match="of one bit all are; take bits_up >= 2"):
        algorithms.get("cfd")(aggregation="entropy")
    with pytest.raises(ValueError, match="unknown aggregation 'varianc'; did you mean 'variance'"):
        algorithms.get("cfd")(aggregation="varianc")


# Where a client's examples lie


@pytest.mark.parametrize("rule", PLACED)
def test_rows_weigh_what_clients_say_they_count_for(rule):
    q = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    near = torch.tensor([0.6]), torch.tensor([0.2])
    uploads = [
        Received(k, "g", {"probabilities": q[k], "nearness": near[k]}, 1.0) for k in range(2)
    ]
    algorithm = algorithms.get("fedmd")(aggregation=rule, temperature=1.0)
    task = Task({}, 2, torch.zeros(1, 1))
    found = algorithm.server_update(task, {}, uploads, public_of(algorithm, task, 0, 1))
    expected = torch.tensor([[0.75, 0.25]])  # 0.6 and 0.2 of 0.8
    if RULES[rule].sharpened:
        expected = expected.softmax(dim=-1)
    torch.testing.assert_close(found["consensus"], expected)


def test_nobody_counts_for_less_than_nothing():
    # 0.003 and -0.002 add up to 0.001: the mean would be three times one less twice the other.
    q = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for near, expected in (((0.003, -0.002), [0.75, 0.25]), ((0.0, 0.0), [0.5, 0.5])):
        said = [{"probabilities": q[k], "nearness": torch.tensor([near[k]])} for k in range(2)]
        algorithm = algorithms.get("fedmd")(aggregation="density")
        uploads = [Received(k, "g", payload, 1.0) for k, payload in enumerate(said)]
        public = public_of(algorithm, Task({}, 2, torch.zeros(1, 1)), 0, 1)
        found = algorithm.server_update(Task({}, 2, torch.zeros(1, 1)), {}, uploads, public)
        torch.testing.assert_close(found["consensus"], torch.tensor([expected]))


@pytest.mark.parametrize(("name", "rule"), [("dsfl", "density-era"), ("fedmd", "density")])
def test_what_is_said_of_own_examples_is_declared_claimed_and_sent(name, rule):
    federation = tiny_federation()
    task, algorithm = federation.task, short(name, rule)
    assert algorithm.properties.beyond_training == ("nearness",)
    claims = algorithm.payload_spec(task, federation.clients[0].group)
    assert claims["nearness"].shape == (len(task.public),)
    first, second = (
        list(simulate(algorithm, task, federation.clients, rounds=2, engine=engine))[-1]
        for engine in (sequential, batched())
    )
    assert first.rejected == second.rejected == {}
    torch.testing.assert_close(first.server["consensus"], second.server["consensus"])


def test_density_by_hand():
    # Public examples at the ends of a cross, whose mean is its centre: the cosines of each with the
    # other three are 0, 0, -1, and U is 2/3 e^-20 but for e^-40. Of an own example on the right arm
    # they are 1, 0, 0, -1, so that rho is 1.5 e^20, 1.5, 1.5, and too little to count: 1.5 e^-20.
    public = torch.tensor([[1.0, 0], [0, 1], [0, -1], [-1, 0]])
    own = torch.tensor([[3.0, 0.0], [0.0, -9.0]])
    mask = torch.tensor([True, False])  # the other one is padding
    found = RULES["density"]().nearness(own, mask, public)
    expected = torch.tensor([1.0, 1.5 / 11.5, 1.5 / 11.5, 0.001])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert RULES["density"]().nearness(own, mask, public[:1]).tolist() == [1.0]


def test_the_density_of_own_examples_is_that_of_a_naive_loop():
    draws = [torch.randn(n, 3, generator=generator(n, "density")) for n in (4, 6)]
    own, public = draws
    found = RULES["density"]().nearness(own, torch.ones(4), public)
    centre = public.mean(dim=0)
    for p, expected in enumerate(found):
        to = [torch.cosine_similarity(public[p] - centre, x - centre, dim=0) for x in own]
        other = [
            torch.cosine_similarity(public[p] - centre, x - centre, dim=0)
            for place, x in enumerate(public)
            if place != p
        ]
        around, usual = (
            torch.stack([(20 * (c - 1)).exp() for c in one]).mean() for one in (to, other)
        )
        value = around / usual / (around / usual + 10)
        assert expected.item() == pytest.approx(max(0.001, value.item()), rel=1e-9)


def test_who_is_near_is_believed():
    # Clients know one class each, and say it of everything: so the mean says nothing, and density
    # finds who has seen the like.
    federation = tiny_federation()
    task, classes = federation.task, federation.task.num_classes
    centres = torch.eye(classes, 36).view(classes, 1, 6, 6)
    y = torch.arange(classes)
    own = [
        replace(client, private=Examples(3 * centres, y, y[client.id : client.id + 1]))
        for client in federation.clients
    ]
    known = replace(task, public=centres)
    learning = TrainingConfig("adam", 0.05, epochs=20, batch_size=1)
    surest = {}
    for rule in ("sa", "density"):
        (last,) = simulate(short("dsfl", rule, local=learning), known, own, rounds=1)
        surest[rule] = last.server["consensus"].max(dim=-1)
    assert surest["sa"].values.max() < 0.3 < surest["density"].values.min()
    assert torch.equal(surest["density"].indices, y)


def test_numbers_that_stand_for_something_are_not_compared():
    task = tiny_federation().task
    words = replace(task, few=torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(
        ValueError, match="compares inputs as they are, and these are whole numbers"
    ):
        short("fedmd", "density").check(words)
    short("fedmd", "density").check(replace(task, few=torch.zeros(2, 3, dtype=torch.uint8)))
    short("fedmd", "variance").check(words)
