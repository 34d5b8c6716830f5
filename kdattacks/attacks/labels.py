"""Which labels a client holds, and how much of each: read off what it sent, without shadow models.

Haonan Shi, Tu Ouyang, An Wang. "Unveiling Client Privacy Leakage from Public Dataset Usage in
Federated Distillation". 2025. https://arxiv.org/abs/2502.08001 for predictions of public examples;
Hao Chen, Haris Vikalo. "Recovering Labels from Local Updates in Federated Learning". ICML 2024.
https://arxiv.org/abs/2405.00955 for the last layer of weights.
"""

import torch
from torch import Tensor

from fedkd.messages import Message, Received
from kdattacks.core import Knowledge, Recorded, Scores
from kdattacks.predictions import newest_predictions

SHARPNESS = 10.0  # of the shares that are read off a bias: how far it moves for a label


def shares(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """The share of each label at each target, (T, C), by what an upload has of these.

    Labels of single records, and counts and shares of labels, as they are; the named rows of class
    means, weighted by themselves, and of prototypes, evenly; the mean prediction over public
    examples, the newest of each; the bias of the last layer, by how far training moved it:
    softmax(10 (b - b_told)). Nothing of these: even shares, which say nothing.
    """
    found = []
    for target, upload in zip(recorded.targets, recorded.uploads(), strict=True):
        received = [one[target] for one in recorded.received if target in one]
        public = recorded.public[-1] if recorded.public else None
        message = received[-1] if received else {}
        if labelled := recorded.newest(target, "labels"):
            share = _counted(labelled, knowledge.num_classes)
        elif public is not None and {"probabilities", "logits"} & set(upload.payload):
            share = newest_predictions(recorded.history(target)).said.double().mean(0)
        else:
            share = _estimate(upload, message, knowledge.num_classes)
        found.append(share / share.sum().clamp(min=1e-12))
    return Scores(torch.stack(found), "labels")


def _counted(upload: Received, classes: int) -> Tensor:
    """How many records of each label an upload names."""
    labels = upload.payload["labels"]
    named = labels if upload.rows is None else labels[upload.rows.bool()]
    return torch.bincount(named.long(), minlength=classes).double()


def _estimate(upload: Received, received: Message, classes: int) -> Tensor:
    """Shares, not yet adding up to one, of what is no prediction of public examples."""
    payload, rows = upload.payload, upload.rows
    if "label_counts" in payload:
        return payload["label_counts"].double().clamp(min=0)
    if "shares" in payload:
        return payload["shares"].double().clamp(min=0)
    if "means" in payload and rows is not None:
        return (payload["means"] * rows.unsqueeze(1)).double().clamp(min=0).sum(0)
    if rows is not None and len(rows) == classes:
        return rows.double()
    biases = [k for k, v in payload.items() if k.endswith("bias") and v.shape == (classes,)]
    if biases:
        moved = payload[biases[-1]] - received.get(biases[-1], torch.zeros(()))
        return (SHARPNESS * moved.double()).softmax(0)
    return torch.full((classes,), 1 / classes, dtype=torch.float64)
