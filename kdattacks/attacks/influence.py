"""Whether two nodes are linked: what is changed at one of them is felt at the other.

Fan Wu, Yunhui Long, Ce Zhang, Bo Li. "LinkTeller: Recovering Private Edges from Graph Neural
Networks via Influence Analysis". IEEE S&P 2022. https://arxiv.org/abs/2108.06504
"""

import torch

from kdattacks.core import Knowledge, Recorded, Scores

STEP = 1e-3  # by which share of itself a node's features are changed; answers are in float32


def reach(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    r"""How far the features of the first node of a pair reach what is said of the second, (T, M).

        |f(X + s x_v e_v)_u - f(X)_u| / s

    of a pair (v, u), with f the logarithms of the posteriors, which a network on a graph works out
    by the target's own edges from features that the attacker gives: a question for each first node.
    Needs features, pairs, and targets that answer so. A network of L mixings says exactly nothing
    beyond L links. Convention: of each target the largest is 1, so that one threshold does for all.
    """
    first, second = knowledge.known("pairs")
    x = knowledge.known("features")
    found = []
    for target in recorded.targets:
        replies = recorded.answering(target)
        before, felt = replies(x).double().log_softmax(-1), x.new_zeros(first.shape).double()
        for node in first.unique().tolist():
            changed = x.clone()
            changed[node] *= 1 + STEP
            moved = (replies(changed).double().log_softmax(-1) - before).norm(dim=-1) / STEP
            felt += moved[second].where(first == node, 0)
        found.append(felt / felt.max().clamp(min=torch.finfo(felt.dtype).tiny))
    return Scores(torch.stack(found), "links")
