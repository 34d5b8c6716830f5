"""Attacks on the links of clients that hold parts of a graph.

Asked about are all links of some of a client's nodes, and as many pairs that are not linked; beside
them pairs of one label, among which homophily tells nothing. The attacker knows the nodes, their
features, and no link between them. An honest server has what the client sent; whoever may ask the
client's own model is told what it says of these nodes by the client's own links. Beside each stands
what the raw features tell, which are no message.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedkd.core import Client
from fedkd.messages import on
from graphkd.graph import Graph
from kdattacks import Attack, Knowledge, Recorded, Scores, ShadowConfig, truth
from kdattacks.attacks import links
from kdattacks.scoring import Decisions
from kdcore.rng import generator
from kdcore.training.batches import Examples
from simulations.audits.federated import CPU, Audit
from simulations.audits.outcomes import Outcome

WHO = {"links": "who may ask", "links-influence": "who may ask", "links-sent": "server"}
# Nodes of a client whose links are asked about, at the most; of influence each is a question.
NODES = {"links-influence": 50}
MOST = 200
KINDS = ("any", "same label")
# What these say of a pair depends on which are asked about with it; others are asked but once.
APART = ("links-influence",)


def outcomes(audit: Audit, name: str, attack: Attack) -> list[Outcome]:
    """What comes of an attack on links, and of the features alone, among either kind of pairs.

    Raises:
        ValueError: it needs what did not cross; or clients have no links of their own.
    """
    if audit.federation.blocks is None:
        raise ValueError(
            "edges are kept between clients, who hold one graph in common, so no link is a "
            "client's own; audit a run with edges cut"
        )
    cases = [Held(audit, client) for client in audit.clients]
    said = {
        who: [case.said(name, attack, who) for case in cases] for who in (WHO[name], links.FEATURES)
    }
    return [
        _outcome(audit, name, kind, who, [one[kind] for one in said[who] if kind in one])
        for kind in KINDS
        for who in said
    ]


def _outcome(
    audit: Audit, name: str, kind: str, who: str, said: Sequence[tuple[Tensor, Scores]]
) -> Outcome:
    """Of all targets, decisions together."""
    if not said:
        raise ValueError(f"no client has a link between two nodes ({kind} pair)")
    control = generator(audit.seed, "control", name, kind, who)
    parts = [truth.Facts(so.unsqueeze(0)).decisions(scores, control) for so, scores in said]
    about = {"attack": name, **audit.about, "clients": list(audit.targets)}
    return Outcome(about | {"target": who, "pairs": kind}, Decisions.pooled(parts), {})


class Held:
    """A client and its block of the graph; nothing of other blocks is looked at."""

    def __init__(self, audit: Audit, client: Client) -> None:
        self.audit, self.client = audit, client
        self.graph: Graph = audit.federation.blocks.block(client.id, CPU)

    def said(self, name: str, attack: Attack, who: str) -> dict[str, tuple[Tensor, Scores]]:
        """Of each kind of which there are links: which pairs are linked, and the scores of all.

        These are an attack's, or those of the features alone.
        """
        drawn = {kind: self.pairs(kind, NODES.get(name, MOST)) for kind in KINDS}
        asked = {kind: (pairs, so) for kind, (pairs, so) in drawn.items() if so.any()}
        if who == links.FEATURES:
            attack, recorded = links.correlation, self.features_alone
        else:
            recorded = self.recorded
        at_once = [[kind] for kind in asked] if name in APART else [list(asked)]
        found: dict[str, tuple[Tensor, Scores]] = {}
        for kinds in filter(None, at_once):
            stream = generator(self.audit.seed, "attack", name, *kinds, self.client.id)
            every = torch.cat([asked[kind][0] for kind in kinds], dim=1)
            scores = attack(recorded, self.knowledge(every), stream)
            parts = scores.values.split([len(asked[kind][1]) for kind in kinds], dim=1)
            for kind, part in zip(kinds, parts, strict=True):
                found[kind] = asked[kind][1], scores._replace(values=part)
        return found

    def pairs(self, kind: str, most: int) -> tuple[Tensor, Tensor]:
        """(2, M) pairs of nodes, and which of them are linked: all links of some of the nodes.

        These nodes, so many at the most, come first in a pair, and no pair comes twice.
        """
        y, (source, other) = self.graph.y, self.graph.edge_index
        draw = generator(self.audit.seed, "pairs", self.client.id, kind)
        some = torch.randperm(len(y), generator=draw)[:most]
        place = torch.full((len(y),), -1).index_copy(0, some, torch.arange(len(some)))
        table = torch.zeros(len(some), len(y), dtype=torch.bool)
        table[place[source[place[source] >= 0]], other[place[source] >= 0]] = True
        row = torch.arange(len(some)).unsqueeze(1)
        asked = (place < 0) | (place > row)
        if kind != "any":
            asked &= y[some].unsqueeze(1) == y
        so, no = (table & asked).nonzero().T, (~table & asked).nonzero().T
        no = no[:, torch.randperm(no.shape[1], generator=draw)[: so.shape[1]]]
        first, second = torch.cat([so, no], dim=1)
        return torch.stack([some[first], second]), torch.arange(len(first)) < so.shape[1]

    def knowledge(self, asked: Tensor) -> Knowledge:
        """What the attacker knows."""
        audit, number = self.audit, self.client.id
        config = audit.shadow_config(number)
        classes, x = audit.federation.task.num_classes, self.graph.x
        return Knowledge(classes, shadowing=config, seed=audit.seed, pairs=asked, features=x)

    @property
    def features_alone(self) -> Recorded:
        """No message at all."""
        return Recorded((links.FEATURES,), predictions={links.FEATURES: self.graph.x})

    @cached_property
    def recorded(self) -> Recorded:
        """What was seen, what the client's own model says of its nodes, and how it says it."""
        audit, number = self.audit, self.client.id
        task, group = audit.federation.task, self.client.group
        params = on(dict(audit.last.clients[number].params), CPU)
        test = audit.federation.test
        nodes = Examples(test.x, test.y, audit.federation.blocks.numbers(number))
        config = ShadowConfig(audit.replay.way.algorithm, task, group)
        network, edges = task.models[group].module(params), self.graph.edge_index

        @torch.no_grad()
        def replies(features: Tensor) -> Any:
            return network(features, edges)

        seen = audit.received, audit.sent, audit.public
        said = {number: config.ask([params], nodes)[0]}
        return Recorded((number,), *seen, said, {number: replies})
