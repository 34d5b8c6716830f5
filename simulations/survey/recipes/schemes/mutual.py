"""Mutual learning: peers with the same data teach each other while they learn."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from fedkd.data.datasets import Dataset
from kdcore import ensemble
from kdcore.losses import response
from kdcore.rng import generator
from kdcore.schemes.offline import alone
from kdcore.schemes.online import online
from kdcore.schemes.stages import run, soft
from kdcore.settings import Setting
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import labelled, share_right, split
from simulations.survey.recipes import Metrics
from simulations.survey.students import accuracy, classifiers


@dataclass(frozen=True)
class Mutual:
    """Deep mutual learning on equal data, where no peer knows what another does not.

    Ying Zhang, Tao Xiang, Timothy Hospedales, Huchuan Lu. "Deep Mutual Learning". CVPR 2018.
    https://arxiv.org/abs/1706.00384

    Controls: the same networks, each alone (`baseline`), and those put together (`ensemble`), which
    is what independent networks know in common; how far peers are apart (`divergence`).
    """

    data: ClassVar[str] = "digits"

    labels: Annotated[int, Setting("labelled examples, the same for all", ge=1)] = 300
    peers: Annotated[
        tuple[str, ...],
        Setting("a network for each peer; `kdsim list models`", min_length=2, names="fedkd.models"),
    ] = ("mlp-64", "mlp-64", "mlp-64")
    training: TrainingConfig = TrainingConfig("adam", 0.002, epochs=60, batch_size=32)

    def measure(self, data: Dataset, seed: int) -> Metrics:
        """Mean test accuracy of the peers, and the KL divergence between two of them, in nats."""
        known, test = split(len(data.y), (self.labels,), seed)
        examples = labelled(data.x, data.y, known)
        x, y = data.x[test], data.y[test]
        names = [f"peer{i}" for i in range(len(self.peers))]
        start = classifiers(data, dict(zip(names, self.peers, strict=True)), seed)
        arms = {
            "": online(names, soft(), examples, self.training),
            "_baseline": [
                stage for name in names for stage in alone(name, examples, self.training)
            ],
        }
        metrics: dict[str, float] = {}
        for arm, scheme in arms.items():
            peers = run(scheme, start, generator(seed, "learn")).values()
            said = [peer(x).logits for peer in peers]
            together = ensemble.mean(torch.stack(said).softmax(-1))
            metrics |= {
                f"accuracy{arm}": sum(accuracy(peer, x, y) for peer in peers) / len(peers),
                f"accuracy_ensemble{arm}": share_right(together, y),
                f"divergence{arm}": float(torch.stack(response.mutual(said)).mean()),
            }
        return metrics
