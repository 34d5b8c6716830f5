"""Mini-batches where steps are counted, and which entries of an order are the first of theirs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.training.batches import NOBODY, Examples, draw, draw_all, rate_of, steps_of
from kdcore.training.optimizers import Clipping, TrainingConfig


def examples(count):
    return Examples(torch.zeros(100, 2), torch.zeros(100).long(), torch.arange(count) * 3 + 5)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(
    count=st.integers(0, 20), steps=st.integers(1, 30), width=st.integers(1, 25), epochs=st.just(2)
)
def test_steps_are_the_beginning_of_as_many_epochs_as_it_takes(count, steps, width, epochs):
    counted = draw(
        examples(count), TrainingConfig(epochs=epochs, batch_size=width, steps=steps), stream()
    )
    whole = draw(examples(count), TrainingConfig(epochs=30, batch_size=width), stream())
    taken = steps if count else 0
    assert counted.order.shape == counted.mask.shape == (taken, width)
    assert torch.equal(counted.order, whole.order[:taken])
    assert torch.equal(counted.mask, whole.mask[:taken])
    assert counted.size.item() == count


def test_clients_of_any_size_take_the_same_number_of_steps():
    small, large = (
        draw(examples(n), TrainingConfig(batch_size=4, steps=5), stream()) for n in (3, 33)
    )
    assert small.steps == large.steps == 5
    assert small.mask.sum(dim=1).tolist() == [3.0] * 5  # an epoch of 3 is one batch
    assert large.mask.sum() == 20  # the first five of nine


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), max_size=5),
    epochs=st.integers(0, 3),
    width=st.integers(1, 6),
    steps=st.none() | st.integers(1, 9),
)
def test_a_cohort_is_drawn_as_each_of_its_clients_is(counts, epochs, width, steps):
    # Each by a loop over its epochs, as the shuffles are told: one for each, the last cut short.
    training = TrainingConfig(epochs=epochs, batch_size=width, steps=steps)
    given = [examples(count) for count in counts]
    drawn = draw_all(given, training, range(len(counts)))
    for k, (own, batches) in enumerate(zip(given, drawn, strict=True)):
        shuffle, found = stream(k), []
        while len(own) and len(found) < (steps or epochs * -(-len(own) // width)):
            once = own.rows[torch.randperm(len(own), generator=shuffle)].tolist()
            found += [once[i : i + width] for i in range(0, len(own), width)]
        found = found[:steps]
        assert batches.mask.sum(dim=1).tolist() == list(map(len, found))
        pairs = zip(batches.order, batches.mask, found, strict=True)
        assert all(order[mask].tolist() == rows for order, mask, rows in pairs)
        assert set(batches.order.flatten().tolist()) <= set(own.rows.tolist())
        assert batches.size.item() == len(own)


@settings(deadline=None)
@given(
    count=st.integers(0, 12),
    epochs=st.integers(0, 3),
    width=st.integers(1, 6),
    steps=st.none() | st.integers(1, 9),
    more=st.integers(0, 3),
)
def test_the_first_of_each_example_is_where_a_loop_finds_it(count, epochs, width, steps, more):
    training = TrainingConfig(epochs=epochs, batch_size=width, steps=steps)
    batches = draw(examples(count), training, stream())
    batches = batches.padded(batches.steps + more)
    found, seen = [], set()
    for row, there in zip(batches.order.flatten().tolist(), batches.mask.flatten(), strict=True):
        found.append(bool(there) and row not in seen)
        seen |= {row} if there else set()
    assert batches.records[1].tolist() == found


@pytest.mark.parametrize("steps", [0, -3])
def test_a_number_of_steps_below_one_is_an_error(steps):
    with pytest.raises(ValueError, match=f"steps must be >= 1, or None, got {steps}"):
        TrainingConfig(steps=steps)


def test_what_needs_whole_epochs_says_so():
    assert TrainingConfig(epochs=4).passes("pretrain") == 4
    with pytest.raises(ValueError, match="pretrain takes whole epochs, and steps is 7; leave out"):
        TrainingConfig(epochs=4, steps=7).passes("pretrain")


# The mini-batches of DP-SGD

PRIVATE = Clipping(1.0, 1.0)


@settings(deadline=None, max_examples=30)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    epochs=st.integers(0, 3),
    width=st.integers(1, 6),
    steps=st.none() | st.integers(1, 9),
)
def test_private_batches_hold_own_examples_each_once_and_cut_nobody_off(
    counts, epochs, width, steps
):
    training = TrainingConfig(epochs=epochs, batch_size=width, steps=steps, privacy=PRIVATE)
    given = [examples(count) for count in counts]
    drawn = draw_all(given, training, range(len(counts)))
    for k, (own, batches) in enumerate(zip(given, drawn, strict=True)):
        wanted = epochs * -(-len(own) // width) if steps is None else steps * (len(own) > 0)
        assert batches.steps == steps_of(len(own), training) == wanted == len(batches.noise)
        assert (batches.noise >= 0).all()
        assert batches.order.shape == batches.mask.shape
        chance = torch.rand(wanted, len(own), generator=stream(k), dtype=torch.float64)
        for order, mask, row in zip(batches.order, batches.mask, chance, strict=True):
            taken = own.rows[row < min(1, width / len(own))]  # as it is told, whatever the width
            assert order[mask].tolist() == taken.tolist()
            assert set(order.tolist()) <= set(own.rows.tolist())
        rows, once = batches.records
        assert rows[once].tolist() == own.rows.tolist()
        assert batches.size.item() == len(own)
        assert batches.padded(wanted + 2).noise.tolist() == [*batches.noise.tolist(), -1, -1]


def test_each_example_is_in_each_step_with_the_same_probability_whatever_others_are():
    training = TrainingConfig(steps=4000, batch_size=5, privacy=PRIVATE)
    batches = draw(examples(25), training, stream())
    place = {row: k for k, row in enumerate(examples(25).rows.tolist())}
    taken = torch.zeros(4000, 25, dtype=torch.float64)
    for step, (order, mask) in enumerate(zip(batches.order, batches.mask, strict=True)):
        taken[step, [place[row] for row in order[mask].tolist()]] = 1
    rate = rate_of(25, training)
    assert rate == 5 / 25
    # 4,000 coins each: five standard errors of a frequency are 5 sqrt(.2 .8 / 4000) = .032; of a
    # correlation 5 / sqrt(4000) = .079, between examples and between a step and the next.
    assert (taken.mean(dim=0) - rate).abs().max() < 0.032
    assert (torch.corrcoef(taken.T) - torch.eye(25)).abs().max() < 0.079
    assert abs(torch.corrcoef(torch.stack([taken[1:, 0], taken[:-1, 0]]))[0, 1]) < 0.079
    # And their number is binomial: its variance is 25 q (1 - q) = 4, that of a fixed width 0.
    assert taken.sum(dim=1).var().item() == pytest.approx(4.0, rel=0.12)


def test_a_rate_of_one_takes_everybody_at_each_step():
    training = TrainingConfig(epochs=3, batch_size=8, privacy=PRIVATE)
    batches = draw(examples(6), training, stream())
    assert batches.mask.all()
    assert batches.order.tolist() == [examples(6).rows.tolist()] * 3


def test_steps_without_examples_are_kept():
    """With q = 1/20 and 20 examples a step is empty with probability .95^20 = .358."""
    batches = draw(examples(20), TrainingConfig(steps=400, batch_size=1, privacy=PRIVATE), stream())
    empty = int((~batches.mask.any(dim=1)).sum())
    assert batches.steps == 400
    assert abs(empty - 143) < 48  # five standard deviations, sqrt(400 .358 .642) = 9.6
    assert (batches.noise != NOBODY).all()


def test_large_draws_are_made_in_parts(monkeypatch):
    training = TrainingConfig(steps=7, batch_size=5, privacy=PRIVATE)
    monkeypatch.setattr("kdcore.training.batches.DRAWN", 31)
    batches = draw(examples(15), training, stream())
    chances, parts = stream(), []
    for count in (2, 2, 2, 1):  # two steps of 15 chances are no more than 31
        parts.append(torch.rand(count, 15, generator=chances, dtype=torch.float64))
    wanted = (torch.cat(parts) < 5 / 15).sum(dim=1)
    assert batches.mask.sum(dim=1).tolist() == wanted.tolist()


def test_a_mini_batch_of_all_examples_has_a_place_for_each_of_the_largest_client():
    training = TrainingConfig(epochs=2, batch_size=0)
    given = [examples(3), examples(7), examples(0)]
    drawn = draw_all(given, training, range(3))
    for count, batches in zip((3, 7, 0), drawn, strict=True):
        assert batches.order.shape == (2 if count else 0, 7)
        for order, mask in zip(batches.order, batches.mask, strict=True):
            assert sorted(order[mask].tolist()) == examples(count).rows.tolist()
    alone = draw(examples(3), training, stream(0))
    assert torch.equal(alone.order, drawn[0].order[:, :3])
    assert draw(examples(0), training, stream()).order.shape == (0, 1)
    with pytest.raises(ValueError, match="batch_size is 0, all .* with privacy steps take them by"):
        TrainingConfig(batch_size=0, privacy=Clipping(1.0, 1.0))
