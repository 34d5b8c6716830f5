"""What KRD draws: how reliable nodes are, which edges are kept, and the power that is fitted."""

import math

import pytest
import torch

from graphkd.graph import Graph
from graphkd.losses import reliability
from kdcore.rng import generator


def star(nodes):
    """Edges from each node to node 0, many times over."""
    source = torch.arange(nodes).repeat(4000)
    edges = torch.stack([source, torch.zeros_like(source)])
    return Graph(torch.zeros(nodes, 1), edges, torch.zeros(nodes, dtype=torch.long), 2)


def test_unreliability_is_the_change_of_entropy_by_hand():
    # Entropies log 2 -> 0 (to rounding), log 2 -> H(3/4, 1/4), and one that does not change.
    clean = torch.zeros(3, 2)
    noisy = torch.tensor([[90.0, 0.0], [math.log(3), 0.0], [5.0, 5.0]])
    part = (math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    found = reliability.unreliability(clean, noisy)
    torch.testing.assert_close(found, torch.tensor([1.0, part, 0.0]))
    torch.testing.assert_close(reliability.unreliability(noisy, clean), found)


def test_a_teacher_that_rules_out_a_class_is_sure_and_not_no_number():
    clean, noisy = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]), torch.zeros(2, 2)
    assert reliability.unreliability(clean, noisy).tolist() == [1.0, 0.0]


def test_a_teacher_that_noise_does_not_move_is_reliable_everywhere():
    logits = torch.randn(4, 3, generator=generator(0))
    assert not reliability.unreliability(logits, logits).any()
    assert reliability.unreliability(logits[:0], logits[:0]).shape == (0,)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_edges_are_kept_as_often_as_their_source_is_reliable(power):
    rho = torch.tensor([0.0, 0.3, 0.8, 1.0])
    graph = star(4)
    kept = reliability.keep(rho, power, graph, generator(1))
    share = kept.view(4000, 4).double().mean(0)
    expected = 1 - rho.double() ** power
    assert share[0] == 1
    assert share[3] == 0
    torch.testing.assert_close(share, expected, rtol=0, atol=4 * 0.5 / math.sqrt(4000))
    assert torch.equal(kept, reliability.keep(rho, power, graph, generator(1)))
    assert not torch.equal(kept, reliability.keep(rho, power, graph, generator(2)))


@pytest.mark.parametrize("power", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("bins", [10, 50])
def test_the_power_that_is_fitted_is_the_best_of_a_fine_grid(power, bins):
    # Nodes agree more rarely the less reliable they are; a tenth of the bins is empty.
    rho = torch.rand(3000, generator=generator(0), dtype=torch.float64)
    rho = rho[(rho * 10).long() != 4]
    agree = torch.rand(len(rho), generator=generator(1)) < 1 - rho**power
    points = []
    for k in range(bins):
        inside = [bool(a) for r, a in zip(rho, agree, strict=True) if int(r * bins) == k]
        if inside:
            points.append(((k + 0.5) / bins, sum(inside) / len(inside)))
    low, high = min(y for _, y in points), max(y for _, y in points)
    scaled = [(x, (y - low) / (high - low)) for x, y in points]
    grid = [0.2 + 0.01 * k for k in range(400)]
    best = min(grid, key=lambda a: sum((1 - x**a - y) ** 2 for x, y in scaled))
    assert reliability.fit_power(rho, agree, bins) == pytest.approx(best, abs=0.01)


def test_the_power_of_a_straight_line_is_1_at_the_middle_of_the_bins():
    # 100 nodes in each of 50 bins, of which 98, 96 ... 0 agree: a line from 1 to 0 when scaled.
    middle = ((torch.arange(50) + 0.5) / 50).double()
    agree = (torch.arange(100) < (98 - 2 * torch.arange(50))[:, None]).flatten()
    found = reliability.fit_power(middle.repeat_interleave(100), agree)
    assert found == pytest.approx(1, abs=0.01)


def test_the_best_power_may_be_at_the_bounds():
    # Nodes of the smallest rho agree, all others do not: the smaller the power, the better.
    rho = ((torch.arange(50) + 0.5) / 50).double()
    assert reliability.fit_power(rho, torch.arange(50) < 1) < 0.3
    # Only those of the largest rho do not: the larger, the better.
    assert reliability.fit_power(rho, torch.arange(50) < 49) > 30


def test_the_power_is_1_where_there_is_nothing_to_fit():
    rho = torch.tensor([0.0, 0.2, 1.0])
    for agree in (torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)):
        assert reliability.fit_power(rho, agree) == 1
    assert reliability.fit_power(rho[:0], torch.zeros(0, dtype=torch.bool)) == 1


def test_errors_say_the_way_out():
    graph = star(3)
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(2, 2\).*with and without noise"):
        reliability.unreliability(torch.zeros(3, 2), torch.zeros(2, 2))
    for rho in (torch.zeros(2), torch.tensor([0, 0.5, 1.5]), torch.tensor([0, math.nan, 1])):
        with pytest.raises(ValueError, match="from 0 to 1 for each of 3 nodes"):
            reliability.keep(rho, 1.0, graph, None)
    with pytest.raises(ValueError, match="power is 0"):
        reliability.keep(torch.zeros(3), 0, graph, None)
    with pytest.raises(ValueError, match="same N nodes"):
        reliability.fit_power(torch.zeros(3), torch.zeros(2, dtype=torch.bool))
