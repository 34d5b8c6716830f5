"""Co-distillation: peers that know different digits tell each other what they think."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset
from fedkd.data.partition import dirichlet
from kdcore import ensemble
from kdcore.losses import response
from kdcore.rng import generator
from kdcore.schemes.learners import Learner, Learners
from kdcore.schemes.offline import alone
from kdcore.schemes.stages import LossTerm, Stage, pooled, run
from kdcore.settings import Setting
from kdcore.training.batches import Examples
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, split, unlabelled
from simulations.survey.recipes import Metrics
from simulations.survey.students import accuracy, classifiers

Pool = Callable[[Tensor], Tensor]  # (M, B, C) probabilities -> (B, C)


@dataclass(frozen=True)
class Codistillation:
    """Online distillation of peers with label-skewed data, on inputs that all of them see.

    Rohan Anil, Gabriel Pereyra, Alexandre Passos, Robert Ormandi, George Dahl, Geoffrey Hinton.
    "Large scale distributed neural network training through online distillation". ICLR 2018.
    https://arxiv.org/abs/1804.03235

    In each round every peer learns its own labels, and then what all have said, a moment ago, of
    the shared inputs, which have no labels. Arms: their probabilities averaged; the same weighted
    by how sure each is of the example (`sure`); averages of what all think now, while they learn
    (`live`). Controls: as many epochs of own labels (`baseline`); the ensemble of peers that
    never exchanged anything (`ensemble`); answers to other inputs than those that were asked about
    (`broken`).

    Convention: a peer is one of those whom it listens to, where the paper leaves it out: all have
    the same target, as in federated distillation.
    """

    data: ClassVar[str] = "digits"

    peers: Annotated[
        tuple[str, ...],
        Setting("a network for each peer; `kdsim list models`", min_length=2, names="fedkd.models"),
    ] = ("mlp-64", "mlp-128-64", "cnn", "mlp-64", "mlp-128-64")
    skew: Annotated[
        float, Setting("concentration of the Dirichlet distribution of labels over peers", gt=0)
    ] = 0.3
    private: Annotated[int, Setting("labelled examples of all peers together", ge=1)] = 500
    shared: Annotated[int, Setting("examples that all see, without labels", ge=1)] = 578
    rounds: Annotated[int, Setting("of own labels, and then of what all have said", ge=1)] = 5
    learning: TrainingConfig = TrainingConfig("adam", 0.002, epochs=5, batch_size=16)
    exchange: TrainingConfig = TrainingConfig("adam", 0.003, epochs=4, batch_size=64)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Mean test accuracy of the peers; how far apart they are, in nats."""
        private, shared, test = split(len(data.y), (self.private, self.shared), seed)
        parts = skewed(data.y, private, len(self.peers), self.skew, seed)
        own = {f"peer{i}": labelled(data.x, data.y, rows) for i, rows in enumerate(parts)}
        start = classifiers(data, dict(zip(own, self.peers, strict=True)), seed)
        inputs = unlabelled(data.x[shared])
        x, y = data.x[test], data.y[test]
        metrics = {}
        for arm, terms in {
            "": from_all(own, ensemble.mean, "before"),
            "_sure": from_all(own, ensemble.entropy_weighted, "before"),
            "_live": from_all(own, ensemble.mean),
            "_broken": from_all(own, misplaced, "before"),
            "_baseline": {},  # the last: its peers make up the ensemble
        }.items():
            peers = self.taught(own, terms, inputs, start, seed)
            metrics[f"accuracy{arm}"] = sum(accuracy(p, x, y) for p in peers.values()) / len(peers)
            if arm in ("", "_baseline"):
                metrics[f"divergence{arm}"] = divergence([*peers.values()], x)
        probabilities = torch.stack([peer(x).logits.softmax(-1) for peer in peers.values()])
        right = ensemble.mean(probabilities).argmax(-1) == y
        return metrics | {"accuracy_ensemble": float(right.double().mean())}

    def taught(
        self,
        own: Mapping[str, Examples],
        terms: Mapping[str, tuple[LossTerm, ...]],
        inputs: Examples,
        peers: Learners,
        seed: int,
    ) -> dict[str, Learner]:
        """The peers after all rounds; without terms each is alone."""
        study = [stage for who, data in own.items() for stage in alone(who, data, self.learning)]
        now, source = dict(peers), generator(seed, "learn")
        for _ in range(self.rounds):
            now = run(study, now, source)
            if terms:
                before = {f"{who} before": peer for who, peer in now.items()}
                now = run([Stage(terms, inputs, self.exchange)], now | before, source)
                now = {who: now[who] for who in peers}
        return now


def skewed(y: Tensor, rows: Tensor, peers: int, alpha: float, seed: int) -> list[Tensor]:
    """Rows for each peer, each label dealt out in proportions of a Dirichlet distribution."""
    parts = dirichlet(y[rows], peers, generator(seed, "skew"), alpha, minimum=10)
    return [rows[part] for part in parts]


def from_all(peers: Iterable[str], pool: Pool, when: str = "") -> dict[str, tuple[LossTerm, ...]]:
    """Each peer listens to all, itself included, as they are or as they were before."""
    teachers = tuple(f"{peer} {when}".strip() for peer in peers)
    return {peer: (LossTerm(pooled(pool), teachers),) for peer in peers}


def misplaced(probabilities: Tensor) -> Tensor:
    """The mean of what is predicted for the example beside."""
    return ensemble.mean(probabilities).roll(1, 0)


def divergence(peers: Sequence[Learner], x: Tensor) -> float:
    """The mean KL divergence between two peers' answers, over examples and ordered pairs."""
    values = response.mutual([peer(x).logits for peer in peers])
    return float(torch.stack(values).mean())
