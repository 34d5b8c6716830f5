"""Mini-batches where steps are counted, and which entries of an order are the first of theirs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.training.batches import Examples, draw, draw_all
from kdcore.training.optimizers import TrainingConfig


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
    drawn = draw_all(given, training, [stream(k) for k in range(len(counts))])
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
    assert batches.first.tolist() == found


@pytest.mark.parametrize("steps", [0, -3])
def test_a_number_of_steps_below_one_is_an_error(steps):
    with pytest.raises(ValueError, match=f"steps must be >= 1, or None, got {steps}"):
        TrainingConfig(steps=steps)


def test_what_needs_whole_epochs_says_so():
    assert TrainingConfig(epochs=4).passes("pretrain") == 4
    with pytest.raises(ValueError, match="pretrain takes whole epochs, and steps is 7; leave out"):
        TrainingConfig(epochs=4, steps=7).passes("pretrain")
