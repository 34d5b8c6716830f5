"""Each row of the table of sensitivities, by a search and by a pair that attains it."""

import math

import pytest
import torch

from fedkd.privacy.releases import RELEASES, Sizes, clipped, find

DRAWS = 100
SIZES = [Sizes(), Sizes(classes=4, queries=6, bound=0.3, weight=5.0), Sizes(3, 2, 2.5, 0.5)]


def on_simplex(rows, classes, generator):
    """Rows of probabilities, about half of them corners."""
    corners = torch.eye(classes)[torch.randint(classes, (rows,), generator=generator)]
    inside = torch.rand(rows, classes, generator=generator).pow(8)
    at_corner = torch.rand(rows, 1, generator=generator) < 0.5
    return torch.where(at_corner, corners, inside / inside.sum(1, keepdim=True)).double()


def held(classes, generator):
    """Which labels a client holds: none, all, or some."""
    share = torch.randint(3, (), generator=generator) / 2
    return (torch.rand(classes, generator=generator) < share).double()


def clipped_rows(rows, width, bound, generator):
    size = 10.0 ** torch.randint(-2, 3, (rows, 1), generator=generator)
    return clipped(torch.randn(rows, width, generator=generator).double() * size, bound)


def predictions(s, g):
    return on_simplex(s.queries, s.classes, g)


def class_means(s, g):
    return on_simplex(s.classes, s.classes, g) * held(s.classes, g)[:, None]


def class_means_and_held(s, g):
    labels = held(s.classes, g)
    return (
        torch.cat([on_simplex(s.classes, s.classes, g), torch.ones(s.classes, 1)], 1)
        * (labels[:, None])
    )


def prototypes(s, g):
    return clipped_rows(s.classes, 2, s.bound, g) * held(s.classes, g)[:, None]


def prototypes_and_held(s, g):
    labels = held(s.classes, g)
    rows = torch.cat([clipped_rows(s.classes, 2, s.bound, g), torch.ones(s.classes, 1)], 1)
    return rows * labels[:, None]


def votes(s, g):
    return torch.eye(s.classes)[torch.randint(s.classes, (s.queries,), generator=g)].double()


def most_votes(s, g):
    """Of a client's vote beside those of four others: the count of the class that has most."""
    others = torch.Generator().manual_seed(1)
    counts = sum(votes(s, others) for _ in range(4))
    present = torch.rand((), generator=g) < 0.8
    return (counts + present * votes(s, g)).max(1).values


def weighted(s, g):
    size = s.weight * torch.randint(3, (), generator=g) / 2
    return clipped_rows(1, 2, s.bound, g) * size


def weighted_and_weight(s, g):
    size = s.weight * torch.randint(3, (), generator=g) / 2
    return torch.cat([clipped_rows(1, 2, s.bound, g), torch.ones(1, 1)], 1) * size


def label_counts(s, g):
    """Of one record beside nine that are the same: a neighbour has another one, or none."""
    return torch.eye(s.classes)[torch.randint(s.classes, (), generator=g)].double()


DRAWN = {
    "predictions": predictions,
    "class means and labels held": class_means_and_held,
    "class means": class_means,
    "prototypes and labels held": prototypes_and_held,
    "prototypes": prototypes,
    "votes": votes,
    "most votes": most_votes,
    "weighted payload": weighted,
    "weighted payload and weight": weighted_and_weight,
    "label counts": label_counts,
}


def absent(name, s):
    """What is there without the unit: nothing, or the votes of the others alone."""
    if name != "most votes":
        return 0.0
    others = torch.Generator().manual_seed(1)
    return sum(votes(s, others) for _ in range(4)).max(1).values


def opposite(s, rows, listed=False):
    """Rows of the largest norm that point away from each other, as many; with a 1 after each."""
    axis = torch.tensor([s.bound, 0.0], dtype=torch.float64).expand(rows, -1)
    last = torch.ones(rows, int(listed), dtype=torch.float64)
    pair = torch.cat([axis, last], 1), torch.cat([-axis, last], 1)
    short = listed and 2 * s.bound < math.hypot(s.bound, 1)  # then the 1 says more than the row
    return (pair[0], torch.zeros_like(pair[0])) if short else pair


def corners(s, rows, listed=False):
    """The same label in each row, and another one; with a 1 after each."""
    last = torch.ones(rows, int(listed))
    return tuple(torch.cat([torch.eye(s.classes)[[c] * rows], last], 1) for c in (0, 1))


def times(weight, pair):
    return tuple(weight * one for one in pair)


def beside_a_tie(s, vote):
    """The most votes, above the two that each of two classes has of the others, in each query."""
    most = torch.bincount(torch.tensor([0, 0, 1, 1, vote])).max() - 2
    return most.double().expand(s.queries)


# The pair that moves most if a unit is replaced. If one is added, the first of it beside nothing.
WORST = {
    "predictions": lambda s: corners(s, s.queries),
    "class means and labels held": lambda s: corners(s, s.classes, listed=True),
    "class means": lambda s: corners(s, s.classes),
    "prototypes and labels held": lambda s: opposite(s, s.classes, listed=True),
    "prototypes": lambda s: opposite(s, s.classes),
    "votes": lambda s: corners(s, s.queries),
    "most votes": lambda s: (beside_a_tie(s, 0), beside_a_tie(s, 2)),
    "weighted payload": lambda s: times(s.weight, opposite(s, 1)),
    "weighted payload and weight": lambda s: times(s.weight, opposite(s, 1, listed=True)),
    "label counts": lambda s: corners(s, 1),
}


def worst(name, relation, s):
    first, second = WORST[name](s)
    return first, second if relation == "replace" else torch.zeros_like(first)


def distance(a, b, norm):
    return float(torch.linalg.vector_norm((a - b).double().flatten(), ord=norm))


def said_of(release):
    return f"{release.name}, {release.relation}, L{release.norm}"


every = pytest.mark.parametrize("release", RELEASES, ids=said_of)
sizes = pytest.mark.parametrize("s", SIZES, ids=["unit", "short", "long"])


@every
@sizes
def test_no_pair_moves_more(release, s):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([DRAWN[release.name](s, generator).flatten() for _ in range(DRAWS)])
    if release.relation == "add":
        others = torch.as_tensor(absent(release.name, s)).flatten().double()
        found = torch.linalg.vector_norm(drawn - others, ord=release.norm, dim=1).max()
    else:
        found = torch.cdist(drawn, drawn, p=release.norm).max()
    assert found <= release.sensitivity(s) + 1e-6
    assert found >= 0.5 * release.sensitivity(s)  # else the search has not looked


@every
@sizes
def test_a_pair_moves_as_much(release, s):
    a, b = worst(release.name, release.relation, s)
    assert distance(a, b, release.norm) == pytest.approx(release.sensitivity(s), rel=1e-9)


def test_the_list_of_labels_held_costs_nothing_where_a_client_is_replaced():
    s = Sizes(classes=10)
    assert find("class means and labels held", "replace").sensitivity(s) == math.sqrt(20)
    assert find("class means", "replace").sensitivity(s) == math.sqrt(20)
    assert find("class means and labels held", "add").sensitivity(s) == math.sqrt(20)
    assert find("class means", "add").sensitivity(s) == math.sqrt(10)


def test_each_is_found_by_its_name():
    for release in RELEASES:
        assert find(release.name, release.relation, release.norm) is release
    with pytest.raises(ValueError, match="no bound is known for 'logits' under 'add' in L2; .*vot"):
        find("logits", "add")


class TestClipped:
    def test_by_hand(self):
        rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
        expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
        torch.testing.assert_close(clipped(rows, 1.0), expected)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_what_would_not_be_clipped(self, bad):
        with pytest.raises(ValueError, match="numbers that are not finite"):
            clipped(torch.tensor([[bad, 1e9]]), 1.0)

    @pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
    def test_bound(self, bad):
        with pytest.raises(ValueError, match=f"bound is {bad}; it has to be positive"):
            clipped(torch.ones(1, 2), bad)
