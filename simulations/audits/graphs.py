"""Attacks on a graph run: it is run again, and the attacker may ask its networks about nodes.

He asks teacher, student and the student alone on the whole graph, and looks at the raw features
too, which is the control: what these tell, no network has given away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import graphkd
from graphkd.data.graph_collection import Graphs
from graphkd.data.links import Pairs
from graphkd.evaluation import metrics
from graphkd.graph import TypedGraph
from graphkd.training.distillation import fit_one_teacher
from kdattacks import Attack, Knowledge, Recorded, truth
from kdattacks.attacks.links import FEATURES
from kdcore.rng import generator
from kdcore.training.batches import Examples
from simulations.audits.candidates import matched
from simulations.audits.outcomes import Outcome, Record
from simulations.config import experiments, identity, sources
from simulations.results import run_folder
from simulations.runners import graph as runner

FEWEST_PAIRS = 10_000  # not linked: the low end of an ROC curve takes so many, see `scoring`
MOST_TIMES = 50  # as many nodes that are no members as there are members, at the most
DRAWS = 50  # rounds of drawing pairs, after which there are too few that are not linked
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Audit:
    """A graph run, and what its networks answer.

    Attributes:
        experiment: what was run.
        split: the graph and its parts.
        predictions: "teacher", "student", "baseline" as far as there are, -> (N, C) logits.
    """

    experiment: experiments.GraphExperiment
    split: graphkd.Split
    predictions: dict[str, Tensor]

    def outcomes(self, name: str, attack: Attack) -> list[Outcome]:
        """What comes of an attack on each network, and for links on the features too."""
        graph, seed = self.split.view("evaluate").graph, self.experiment.seed
        if name != "links":
            return self._of_nodes(name, attack, graph)
        draw = generator(seed, "pairs")
        linked, others = pairs(graph.edge_index), unlinked(graph.edge_index, len(graph.y), draw)
        alike = unlinked(graph.edge_index, len(graph.y), draw, graph.y)
        same = linked[:, graph.y[linked[0]] == graph.y[linked[1]]]
        found = []
        for kind, so, no in (("any", linked, others), ("same label", same, alike)):
            found += self._of_links(name, attack, graph, kind, so, no)
        return found

    def _of_links(
        self, name: str, attack: Attack, graph: graphkd.Graph, kind: str, so: Tensor, no: Tensor
    ) -> list[Outcome]:
        asked = torch.cat([so, no], dim=1)
        facts = truth.Facts((torch.arange(asked.shape[1]) < so.shape[1]).unsqueeze(0))
        knowledge = Knowledge(self._classes(graph), pairs=asked, seed=self.experiment.seed)
        predictions = {**self.predictions, FEATURES: graph.x}
        return [
            self._judged(name, attack, {who: predictions[who]}, knowledge, facts, {"pairs": kind})
            for who in predictions
        ]

    def _of_nodes(self, name: str, attack: Attack, graph: graphkd.Graph) -> list[Outcome]:
        """Were the labels of nodes trained on: candidates of both kinds, evenly by label."""
        view = self.split.view("evaluate")
        stream = generator(self.experiment.seed, "candidates")
        chosen = matched(view.part("train"), view.part("test"), graph.y, stream, MOST_TIMES)
        candidates = Examples(graph.x, graph.y, chosen.rows)
        knowledge = Knowledge(self._classes(graph), candidates, seed=self.experiment.seed)
        facts = truth.Facts(chosen.member.unsqueeze(0))
        return [
            self._judged(name, attack, {who: said[chosen.rows]}, knowledge, facts, {})
            for who, said in self.predictions.items()
        ]

    def _judged(
        self,
        name: str,
        attack: Attack,
        predictions: dict[str, Tensor],
        knowledge: Knowledge,
        facts: truth.Facts,
        more: dict[str, Any],
    ) -> Outcome:
        e, (who,) = self.experiment, predictions
        recorded = Recorded((who,), predictions=predictions)
        scores = attack(recorded, knowledge, generator(e.seed, "attack", name, who))
        about: Record = {"attack": name, "method": e.name, "data": e.data, "protocol": e.protocol}
        about |= {"seed": e.seed, "target": who, **more}
        return Outcome(about, facts.decisions(scores, generator(e.seed, "control", name, who)), {})

    def _classes(self, graph: graphkd.Graph) -> int:
        return int(graph.y.max()) + 1


def seen(folder: Path, root: Path | None) -> Audit:
    """A graph run, run again.

    Raises:
        ValueError: there is no such run, it is of many graphs or of real targets, or it is not as
            it was.
        FileNotFoundError: a data file is missing.
    """
    run = run_folder.load(folder)[0]
    experiment = _experiment_of(run)
    torch.set_num_threads(int(run_folder.head(run.path)["threads"]))
    audit, result = trained(experiment, root)
    _check(run, result)
    return audit


def trained(
    experiment: experiments.GraphExperiment,
    root: Path | None = None,
    train: Callable[..., Any] = fit_one_teacher,
) -> tuple[Audit, graphkd.Result]:
    """An experiment as it comes out, and what may be asked of it.

    Args:
        experiment: what to run.
        root: the folder of data sets.
        train: of teachers, see `graphkd.distill.carry_out`.

    Raises:
        ValueError: it is of many graphs, of links, of several types or of real targets.
        FileNotFoundError: a data file is missing.
    """
    plan, split = runner.prepare(experiment, root)
    graph = split.view("evaluate").graph
    if isinstance(graph, Graphs | Pairs | TypedGraph) or graph.y.is_floating_point():
        raise ValueError(
            f"{experiment.data}: links and nodes are asked of one graph with labels of all nodes, "
            f"and {experiment.name} learnt something else there: audit a run such as glnn on cora"
        )
    *_, result = graphkd.distill.carry_out(plan, split, seed=experiment.seed, train=train)
    assert isinstance(result, graphkd.Result)
    predictions = {
        who: metrics.everywhere(one.network, split, one.encode).to(CPU)
        for who, one in sorted(result.trained.items(), reverse=True)
    }
    if "student" not in predictions:  # of those that learn alone, the student is its own baseline
        predictions = {"student" if who == "baseline" else who: v for who, v in predictions.items()}
    known = {who: said for who, said in predictions.items() if not said.isnan().any()}
    return Audit(experiment, split, known), result


def _experiment_of(run: run_folder.Run) -> experiments.GraphExperiment:
    given = {k: v for k, v in run.experiment.items() if k not in ("kind", "algorithm", "method")}
    found: experiments.GraphExperiment = experiments.build("graph", run.experiment["method"], given)
    if identity.digest(found, sources.sources(found)) != run.hash:
        raise ValueError(
            f"{run.path} was written by another version of kdsim, with other settings; audit it "
            "with that version, or run the experiment again"
        )
    return found


def _check(run: run_folder.Run, result: graphkd.Result) -> None:
    """Raise ValueError for a run that came out otherwise."""
    (before,) = [record for record in run.records if record.get("record") == "run"]
    for name, value in result.metrics.items():
        if before["metrics"].get(name) != value:
            raise ValueError(
                f"{run.path.name} cannot be run again exactly, so nothing is shown: {name} was "
                f"{before['metrics'].get(name)} and is {value}; the cause may be another machine, "
                "device or version; run the experiment again here"
            )


def pairs(edge_index: Tensor) -> Tensor:
    """(2, E) each link once, the smaller number first; no loops."""
    ends = edge_index.cpu().sort(0).values
    once: Tensor = torch.unique(ends[:, ends[0] < ends[1]], dim=1)
    return once


def unlinked(
    edge_index: Tensor, count: int, draw: torch.Generator, y: Tensor | None = None
) -> Tensor:
    """(2, M) pairs of nodes without a link, as many as there are links, and 10,000 at least.

    With labels `y`, of one label each. No pair comes twice; there may be fewer in a small graph.
    """
    linked = pairs(edge_index)
    wanted = max(linked.shape[1], FEWEST_PAIRS)
    taken = linked[0] * count + linked[1]
    found = taken[:0]
    for _ in range(DRAWS):
        ends = torch.randint(count, (2, wanted), generator=draw).sort(0).values
        fits = ends[0] < ends[1]
        if y is not None:
            fits &= y[ends[0]] == y[ends[1]]
        keys = ends[0, fits] * count + ends[1, fits]
        found = torch.cat([found, keys[~torch.isin(keys, taken)]]).unique()
        if len(found) >= wanted:
            break
    found = found[torch.randperm(len(found), generator=draw)[:wanted]]
    return torch.stack([found // count, found % count])
