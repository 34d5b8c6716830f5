"""LLP: which of the nodes around a node are more likely joined to it."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Generator, Tensor

from graphkd.graph import Graph, Part
from graphkd.method import (
    Decay,
    Depth,
    DistillationContext,
    Dropout,
    Loss,
    LossTerm,
    Method,
    Rate,
    Width,
)
from graphkd.ops.random_walks import random_walks
from kdcore.losses import ranking, response
from kdcore.outputs import Outputs
from kdcore.settings import Setting


@dataclass(frozen=True)
class LLP(Method):
    r"""A graph network teaches an MLP the relations of links: which of two is the more likely.

    Guo, Shiao, Zhang, Liu, Chawla, Shah and Zhao, "Linkless Link Prediction via Relational
    Distillation", ICML 2023, https://arxiv.org/abs/2210.05801; the authors' code is at
    https://github.com/snap-research/linkless-link-prediction.

        L = \alpha mean BCE + w mean_v match(p^student_{v, C(v)}, p^teacher_{v, C(v)})

    where C(v) are context nodes of an anchor v: those that short random walks come by, and others
    drawn at random, and p = sigmoid(logit). Matching is by "rank", `ranking.margin_ranking` on
    pairs of context nodes; by "distribution", KL(softmax(p^teacher) || softmax(p^student)) over
    C(v); by "both", the paper's LLP; or by "logits", the mean squared difference of p on the pairs
    that the labels are of, which is the paper's control.

    Convention: from the authors' code are the context (walks of `hops` from each anchor and as many
    others, `random_rate` times; it may have the anchor itself), means where the paper has sums, one
    margin for teacher and student, and no temperature, which the paper has. Ours are: the best
    epoch by AUC on validation pairs, where the authors take Hits@20, which depends on few pairs;
    one weight w, where they search for two; a GCN as teacher, where they have SAGE; a width of 64
    and `anchors` drawn for a step, where they have 256 and every node; no clipping of gradients.
    """

    task = "links"
    needs = frozenset({"edges"})
    published_settings = {"": {"hidden": 64, "dropout": 0.5, "lr": 0.01, "weight_decay": 0.0}}

    teacher: str = "gcn"
    teacher_hidden: Width = 64
    teacher_layers: Depth = 2
    teacher_dropout: Dropout = 0.8
    teacher_lr: Rate = 0.01
    teacher_weight_decay: Decay = 0.0
    matching: Annotated[
        Literal["rank", "distribution", "both", "logits"], Setting("what of links is taught")
    ] = "rank"
    matching_weight: Annotated[float, Setting("w, of what is taught", ge=0)] = 10.0
    margin: Annotated[float, Setting("of likelihoods that differ, in rank", ge=0, le=1)] = 0.1
    walks: Annotated[int, Setting("from an anchor, that give context nodes", ge=1)] = 3
    hops: Annotated[int, Setting("of a walk, each a context node", ge=1)] = 2
    random_rate: Annotated[int, Setting("random context nodes for each near one", ge=0)] = 1
    anchors: Annotated[int, Setting("drawn for a step; 0 is all nodes", ge=0)] = 512

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """What the matching compares, of context nodes or of single pairs."""
        rank: Loss = partial(_ranks, margin=self.margin)
        matched: dict[str, tuple[Loss, ...]] = {
            "rank": (rank,),
            "distribution": (_distribution,),
            "both": (rank, _distribution),
            "logits": (_difference,),
        }
        return tuple(LossTerm(loss, self.matching_weight) for loss in matched[self.matching])

    def asked(self, ends: Tensor, graph: Graph, draw: Generator) -> Tensor:
        """Anchors with their context nodes, (2, A, M); of logits the pairs themselves."""
        if self.matching == "logits":
            return super().asked(ends, graph, draw)
        n = graph.union.num_nodes
        anchors = torch.randperm(n, generator=draw)[: self.anchors or n]
        walked = random_walks(graph.edge_index, n, self.walks, self.hops + 1, draw, anchors)
        near = walked[:, 1:].view(self.walks, len(anchors), self.hops).transpose(0, 1).flatten(1)
        far = torch.randint(n, (len(anchors), near.shape[1] * self.random_rate), generator=draw)
        context = torch.cat([near, far], dim=1)
        return torch.stack([anchors[:, None].expand_as(context), context])


def _ranks(student: Outputs, teacher: Outputs, graph: Graph | Part, margin: float) -> Tensor:
    return ranking.margin_ranking(student.logits.sigmoid(), teacher.logits.sigmoid(), margin)


def _distribution(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
    return response.kl(student.logits.sigmoid(), teacher.logits.sigmoid())


def _difference(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
    return (student.logits.sigmoid() - teacher.logits.detach().sigmoid()).square().mean(-1)
