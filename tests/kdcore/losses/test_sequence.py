import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import tensor

from kdcore.losses.response import cross_entropy, kl
from kdcore.losses.sequence import sequence_level, word_level


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


STUDENT, TEACHER = normal(3, 4, 5), normal(3, 4, 5, seed=1)
TOKENS = tensor([[0, 1, 2, 3], [4, 4, 0, 0], [2, 0, 0, 0]])
MASK = tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


def test_word_level_by_hand():
    # softmax(log 3, 0) = (3/4, 1/4) against (1/2, 1/2) at the first token, equal at the second.
    teacher = tensor([[[math.log(3.0), 0.0], [0.0, 0.0], [9.0, 0.0]]])
    value = word_level(torch.zeros(1, 3, 2), teacher, tensor([[1, 1, 0]]))
    close(value.item(), (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2, 1e-6)


def test_sequence_level_by_hand():
    student = tensor([[[math.log(3.0), 0.0], [0.0, 0.0], [9.0, 0.0]]])
    value = sequence_level(student, tensor([[0, 1, 1]]), tensor([[1, 1, 0]]))
    close(value.item(), -(math.log(0.75) + math.log(0.5)) / 2, 1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_word_level_is_the_loop_over_tokens(temperature):
    for n in range(3):
        places = [place for place in range(4) if MASK[n, place]]
        each = [
            kl(STUDENT[n, p].unsqueeze(0), TEACHER[n, p].unsqueeze(0), temperature).item()
            for p in places
        ]
        value = word_level(STUDENT, TEACHER, MASK, temperature)[n]
        close(value.item(), sum(each) / len(places))


def test_sequence_level_is_the_loop_over_tokens():
    for n in range(3):
        places = [place for place in range(4) if MASK[n, place]]
        log_p = STUDENT[n].log_softmax(-1)
        each = [-log_p[p, TOKENS[n, p]].item() for p in places]
        close(sequence_level(STUDENT, TOKENS, MASK)[n].item(), sum(each) / len(places))


def test_weighed_with_their_lengths_the_values_give_the_mean_over_all_tokens():
    lengths, there = MASK.sum(1), MASK.bool()
    mean = (sequence_level(STUDENT, TOKENS, MASK) * lengths).sum() / lengths.sum()
    close(mean, F.cross_entropy(STUDENT[there], TOKENS[there]))
    mean = (word_level(STUDENT, TEACHER, MASK) * lengths).sum() / lengths.sum()
    close(mean, kl(STUDENT[there], TEACHER[there]).mean())


def test_batchmean_would_sum_over_the_places():
    """On (N, L, C) torch's "batchmean" is L times the mean over tokens."""
    log_p, log_q = STUDENT.log_softmax(-1), TEACHER.log_softmax(-1)
    trap = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    close(trap, 4 * word_level(STUDENT, TEACHER, torch.ones(3, 4)).mean())


@pytest.mark.parametrize("padding", [1e30, math.inf, math.nan])
def test_what_stands_at_padding_does_not_matter(padding):
    there = MASK.bool().unsqueeze(-1)
    student = torch.where(there, STUDENT, padding).requires_grad_()
    teacher, tokens = torch.where(there, TEACHER, padding), TOKENS.where(MASK.bool(), -100)
    for value, plain in [
        (word_level(student, teacher, MASK), word_level(STUDENT, TEACHER, MASK)),
        (sequence_level(student, tokens, MASK), sequence_level(STUDENT, TOKENS, MASK)),
    ]:
        close(value.detach(), plain)
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert gradient.isfinite().all()
        assert (gradient[~MASK.bool()] == 0).all()


def test_a_sequence_without_a_token_gives_nothing():
    none = torch.zeros(3, 4)
    assert (word_level(STUDENT, TEACHER, none) == 0).all()
    assert (sequence_level(STUDENT, TOKENS, none) == 0).all()


def test_one_token_is_an_ordinary_example():
    one = torch.ones(3, 1)
    close(word_level(STUDENT[:, :1], TEACHER[:, :1], one), kl(STUDENT[:, 0], TEACHER[:, 0]))
    close(
        sequence_level(STUDENT[:, :1], TOKENS[:, :1], one),
        cross_entropy(STUDENT[:, 0], TOKENS[:, 0]),
    )


def test_words_of_a_teacher_who_is_sure_are_its_sequence():
    sure = 1e3 * F.one_hot(TOKENS, 5).double()
    close(word_level(STUDENT, sure, MASK), sequence_level(STUDENT, TOKENS, MASK))


def test_errors():
    with pytest.raises(ValueError, match=r"teacher has shape \(3, 4, 6\).*one vocabulary"):
        word_level(STUDENT, normal(3, 4, 6), MASK)
    with pytest.raises(ValueError, match=r"mask has shape \(3, 3\).*\(N, L\), true"):
        word_level(STUDENT, TEACHER, MASK[:, :3])
    with pytest.raises(ValueError, match="tokens .*are torch.float32; expected .*integers"):
        sequence_level(STUDENT, TOKENS.float(), MASK)
    with pytest.raises(ValueError, match="temperature is 0"):
        word_level(STUDENT, TEACHER, MASK, temperature=0)
