"""Membership by a threshold: what a model is sure of, it has seen.

Samuel Yeom, Irene Giacomelli, Matt Fredrikson, Somesh Jha. "Privacy Risk in Machine Learning:
Analyzing the Connection to Overfitting". CSF 2018. https://arxiv.org/abs/1709.01604
"""

import torch

from kdattacks.core import Knowledge, Recorded, Scores


def threshold(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """Minus the loss of each candidate: log p(y | x). Needs answers about the candidates alone.

    Shapes: (T, N). The convention is that of Algorithm 2 of the paper, with every threshold: it
    knows nothing of how hard an example is, and so finds no member that it is sure of.
    """
    candidates = knowledge.known("candidates")
    logits = recorded.asked()[:, : len(candidates)].double()
    y = candidates.y[candidates.rows].expand(len(logits), -1).unsqueeze(-1)
    return Scores(logits.log_softmax(-1).gather(-1, y).squeeze(-1))
