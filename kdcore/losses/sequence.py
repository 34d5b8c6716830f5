"""Knowledge in a sequence: what the teacher says of each token, or which sequence it would write.

Each loss gives one value per sequence, the mean over its own tokens; padding does not count. The
mean over all tokens of a batch, for which perplexities are given, weighs these values with
`mask.sum(1)`. The logits at a place are those for the token at that place: the shift by one of a
language model is the caller's.
"""

from torch import Tensor

from kdcore.losses.precision import in_float32
from kdcore.losses.response import kl


@in_float32
def word_level(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Word-level distillation: at each place, the teacher's distribution over the next token.

    Kim and Rush, "Sequence-Level Knowledge Distillation", EMNLP 2016,
    https://arxiv.org/abs/1606.07947.

        1 / |tokens| \sum_l mask_l T^2 KL(softmax(teacher_l / T) || softmax(student_l / T))

    Convention: `kdcore.losses.response.kl` of every token, T^2 included, divided by the number of
    tokens: `kl_div(..., reduction="batchmean")` of such tensors divides by N alone and grows with
    L. The paper writes a cross-entropy, which has the same gradient. What stands at padding does
    not matter, NaN included. A sequence without a token gives 0.

    Shapes:
        student, teacher: (N, L, C) logits, N sequences of L places by C words; mask: (N, L), true
        for tokens, false for padding; gives (N,), in nats per token.

    Raises:
        ValueError: the shapes do not fit, or the temperature is not positive.
    """
    tokens = _tokens(student, mask)
    if teacher.shape != student.shape:
        raise ValueError(
            f"student has shape {tuple(student.shape)} and teacher has shape "
            f"{tuple(teacher.shape)}; expected the same (N, L, C): both need one vocabulary and "
            "one way to cut text into tokens"
        )
    there = tokens.unsqueeze(-1)
    flat = [logits.where(there, 0).flatten(0, 1) for logits in (student, teacher)]
    return _per_token(kl(flat[0], flat[1], temperature).reshape(tokens.shape), tokens)


@in_float32
def sequence_level(student: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    r"""Sequence-level distillation: the likelihood of a sequence that the teacher wrote.

    Kim and Rush, "Sequence-Level Knowledge Distillation", EMNLP 2016,
    https://arxiv.org/abs/1606.07947.

        -1 / |tokens| \sum_l mask_l \log softmax(student_l)_{y_l},   y written by the teacher

    Convention: divided by the number of tokens, so that long sequences do not outweigh short ones;
    the log-likelihood itself is the value times -|tokens|. The sequences are the teacher's only
    knowledge here, which makes this ordinary training on what it wrote. A sequence without a
    token gives 0.

    Shapes:
        student: (N, L, C) logits; tokens: (N, L), integers 0..C-1, anything where padded; mask:
        (N, L), true for tokens, false for padding; gives (N,), in nats per token.

    Raises:
        ValueError: the shapes do not fit, or the tokens are not integers.
    """
    there = _tokens(student, mask)
    if tokens.shape != mask.shape or tokens.is_floating_point():
        raise ValueError(
            f"student has shape {tuple(student.shape)} and tokens have shape "
            f"{tuple(tokens.shape)} and are {tokens.dtype}; expected (N, L, C) and integers (N, L)"
        )
    log_p = student.where(there.unsqueeze(-1), 0).log_softmax(-1)
    place = tokens.long().where(there, 0).unsqueeze(-1)
    return _per_token(-log_p.gather(-1, place).squeeze(-1), there)


def _per_token(values: Tensor, tokens: Tensor) -> Tensor:
    return values.where(tokens, 0).sum(-1) / tokens.sum(-1).clamp(min=1)


def _tokens(student: Tensor, mask: Tensor) -> Tensor:
    if student.ndim != 3 or mask.shape != student.shape[:2]:
        raise ValueError(
            f"student has shape {tuple(student.shape)} and mask has shape {tuple(mask.shape)}; "
            "expected (N, L, C) and (N, L), true where there is a token"
        )
    return mask.bool()
