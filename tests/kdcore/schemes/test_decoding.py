"""Decoding against frequencies that can be worked out, naive loops and exhaustive search."""

import itertools

import pytest
import torch

from kdcore.rng import generator
from kdcore.schemes.decoding import beam_search, sampled

CLASSES = 3
WEIGHTS = torch.randn(8, CLASSES, CLASSES, generator=generator(0, "weights"))


def whole_past(text):
    """What comes next depends on every token before and on its place."""
    return WEIGHTS[torch.arange(text.shape[1]), text].sum(dim=1)


def log_likelihood(text, prompt):
    """Of each sequence (N, L), token by token from the prompt on."""
    found = torch.zeros(len(text))
    for place in range(prompt, text.shape[1]):
        log_p = whole_past(text[:, :place]).log_softmax(dim=-1)
        found += log_p[torch.arange(len(text)), text[:, place]]
    return found


def continuations(prompt, count):
    every = itertools.product(range(CLASSES), repeat=count)
    return torch.tensor([[*prompt.tolist(), *more] for more in every])


def test_a_continuation_is_drawn_as_often_as_it_is_likely():
    prompt, many = torch.tensor([1, 0]), 4000
    text = sampled(whole_past, prompt.repeat(many, 1), 2, generator(0, "text"))
    there = continuations(prompt, 2)
    chances = log_likelihood(there, 2).exp()
    assert float(chances.sum()) == pytest.approx(1)
    often = torch.stack([(text == one).all(dim=1).double().mean() for one in there])
    error = (chances * (1 - chances) / many).sqrt()
    assert bool(((often - chances).abs() < 4 * error).all())


def test_a_text_can_begin_with_nothing():
    def first_then_next(text):
        sure = torch.full((len(text), CLASSES), -50.0)
        return sure.scatter(1, torch.full((len(text), 1), text.shape[1] % CLASSES), 50.0)

    text = sampled(first_then_next, torch.zeros(2, 0, dtype=torch.long), 4, generator(0))
    assert text.tolist() == [[0, 1, 2, 0]] * 2


@pytest.mark.parametrize("count", [1, 4])
def test_a_beam_that_is_wide_enough_finds_the_likeliest_sequence(count):
    prompts = torch.tensor([[0, 1], [2, 2], [1, 0]])
    found = beam_search(whole_past, prompts, count, width=CLASSES ** (count - 1))
    for prompt, text in zip(prompts, found, strict=True):
        there = continuations(prompt, count)
        assert text.tolist() == there[log_likelihood(there, 2).argmax()].tolist()


def test_a_beam_of_one_takes_the_likeliest_token_each_time():
    prompts = torch.tensor([[0], [2]])
    expected = prompts
    for _ in range(5):
        following = whole_past(expected).argmax(dim=-1, keepdim=True)
        expected = torch.cat([expected, following], dim=1)
    assert torch.equal(beam_search(whole_past, prompts, 5, width=1), expected)


def test_two_beginnings_see_what_one_does_not():
    """0 is likelier at first, 0.6, and each way on from it halves that; after 1 all is certain."""
    after = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.6, 0.4]]).log()  # after 0, after 1, at first

    def say(text):
        return after[text[:, -1]]

    start = torch.tensor([[2]])
    assert beam_search(say, start, 2, width=1)[0, 1] == 0
    assert beam_search(say, start, 2, width=2).tolist() == [[2, 1, 1]]


def test_a_beam_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 beginning, got width 0"):
        beam_search(whole_past, torch.zeros(1, 1, dtype=torch.long), 1, width=0)
