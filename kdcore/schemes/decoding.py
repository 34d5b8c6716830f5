"""Decoding: what a model of the next token writes, drawn token by token or searched for.

The model is a function `say`, (N, t) tokens -> (N, C) logits of the one that comes next. What it
writes is what a teacher knows of whole sequences; `kdcore.losses.sequence.sequence_level` is how a
student learns of it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Say = Callable[[Tensor], Tensor]


def sampled(say: Say, prompts: Tensor, count: int, generator: torch.Generator) -> Tensor:
    r"""Prompts, and as many more tokens as asked for, each drawn from what the model says of it.

        y_l ~ softmax(say(prompt, y_{<l}))

    So a continuation comes as often as it is likely (ancestral sampling): training on such ones is,
    on average, the cross-entropy of Yoon Kim, Alexander Rush. "Sequence-Level Knowledge
    Distillation". EMNLP 2016. https://arxiv.org/abs/1606.07947, (4), which sums over all sequences.

    Shapes:
        prompts: (N, t); gives (N, t + count).
    """
    text = prompts
    for _ in range(count):
        chances = say(text).softmax(dim=-1).cpu()
        drawn = torch.multinomial(chances, 1, generator=generator)
        text = torch.cat([text, drawn.to(text)], dim=1)
    return text


def beam_search(say: Say, prompts: Tensor, count: int, width: int = 5) -> Tensor:
    r"""Prompts, and the likeliest continuation of each that a beam search finds.

        argmax_y \sum_l \log softmax(say(prompt, y_{<l}))_{y_l}

    of which after each token the `width` likeliest beginnings are kept: with a width of 1 the
    likeliest token each time, with one of C^(count - 1) or more the likeliest sequence there is.
    What Kim and Rush (see `sampled`) let a student read in the place of their sum.

    Convention: all sequences are of one length, so nothing is divided by it; of those that are
    equally likely it is any.

    Shapes:
        prompts: (N, t); gives (N, t + count).

    Raises:
        ValueError: a width below 1.
    """
    if width < 1:
        raise ValueError(f"a beam search keeps at least 1 beginning, got width {width}")
    beams = prompts.unsqueeze(1)  # (N, W, t)
    scores = torch.zeros(beams.shape[:2], device=prompts.device)
    for _ in range(count):
        log_p = say(beams.flatten(0, 1)).log_softmax(dim=-1).unflatten(0, beams.shape[:2])
        classes = log_p.shape[-1]
        each = (scores.unsqueeze(-1) + log_p).flatten(1)  # (N, W C)
        scores, best = each.topk(min(width, each.shape[1]), dim=1)
        begun = beams.gather(1, (best // classes).unsqueeze(-1).expand(-1, -1, beams.shape[-1]))
        beams = torch.cat([begun, (best % classes).unsqueeze(-1).to(begun)], dim=-1)
    return beams[:, 0]
