"""Whole weights, low-rank adapters and predictions, exchanged by those who begin with one network.

`python adapters.py DATA [SEED ...]`, DATA being the folder of data sets with Shakespeare in it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import kdsim
from fedkd.data import datasets
from fedkd.models.low_rank import adapted
from fedkd.models.sequences import Transformer
from kdcore.losses.sequence import sequence_level


def pretrained(text: datasets.Dataset, seed: int, count: int = 2000, epochs: int = 4) -> nn.Module:
    """A `transformer-64` that has read windows of those who are no clients."""
    torch.manual_seed(seed)
    network = Transformer(text.num_classes, 64, text.x.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    rows = torch.randperm(text.foreign)[:count]
    x, y = text.x[rows], text.y[rows]
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(16):
            loss = sequence_level(network(x[batch]), y[batch], torch.ones_like(y[batch])).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


def federation(root: Path, seed: int, model: nn.Module, algorithm: str) -> Any:
    """The record of five rounds between ten speakers; the rate is that of the page on text."""
    training = {"optimizer": "adam", "learning_rate": 0.01, "epochs": 2, "batch_size": 16}
    settings: dict[str, Any] = {"clients": 10, "partition": "natural", "private": 1500}
    settings |= {"public": 250, "rounds": 5, "local": training}
    if algorithm == "dsfl":
        settings |= {"distill": training, "aggregation": "sa", "compression": "root8"}
    data = {"data": "shakespeare", "data_root": root, "models": [model]}
    *_, record = kdsim.simulate(algorithm, seed=seed, engine="sequential", **data, **settings)
    return record


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for seed in map(int, sys.argv[2:] or "012"):
        whole = pretrained(datasets.load("shakespeare", root), seed)
        for name, model in (("whole", whole), ("adapters", adapted(whole))):
            for algorithm in ("fedavg", "dsfl"):
                found = federation(root, seed, model, algorithm)
                print(seed, name, algorithm, found.perplexity, found.bytes_up // 50, flush=True)
