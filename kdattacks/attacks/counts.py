"""How many records a client holds: where the server weights clients by it, they say so themselves.

H. Brendan McMahan, Eider Moore, Daniel Ramage, Seth Hampson, Blaise Aguera y Arcas.
"Communication-Efficient Learning of Deep Networks from Decentralized Data". AISTATS 2017.
https://arxiv.org/abs/1602.05629 weights by n_k; so do most of those that followed.
"""

import torch
from torch import Tensor

from fedkd.messages import Received
from kdattacks.core import Knowledge, Recorded, Scores


def records(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """The number of records of each target, (T,): its weight, or the sum of its labels' counts.

    Where each client counts once the weight is 1 for all, and nothing is learnt.
    """
    sent = zip(recorded.targets, recorded.uploads(), strict=True)
    # Labels may be sent once, and not in the newest upload.
    found = [_count(recorded.newest(target, "labels") or upload) for target, upload in sent]
    return Scores(torch.stack(found), "counts")


def _count(upload: Received) -> Tensor:
    if "label_counts" in upload.payload:
        return upload.payload["label_counts"].double().sum()
    if "labels" in upload.payload and upload.rows is not None:
        return upload.rows.double().sum()
    return torch.tensor(float(upload.weight), dtype=torch.float64)
