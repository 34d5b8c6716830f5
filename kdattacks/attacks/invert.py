"""An image of each label, made of what crossed: by a linear map from what models say to inputs.

Hideaki Takahashi, Jingjing Liu, Yang Liu. "Breaching FedMD: Image Recovery via Paired-Logits
Inversion Attack". CVPR 2023. https://arxiv.org/abs/2304.11436 train a network from the logits of
public examples to these, and feed it what a client that is quite sure would say of a private label.
Here the map is linear, by ridge regression, and what is fed to it depends on what crossed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fedkd.messages import Message, Received
from kdattacks.core import Knowledge, Recorded, Scores
from kdattacks.predictions import History, newest_predictions
from kdcore.training.batches import rows

SURE = 0.82  # probability of the right label in the row that stands for it
RIDGE = 10.0
SMALLEST = 1e-6

Pairs = tuple[Tensor, Tensor]  # what a model says (N, H), and of which inputs (N, D)


def images(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """An image of each label at each target, (T, C, D).

    Of predictions for public examples the map is learnt from these themselves, target by target. Of
    prototypes, class means and the features of FedGen's generator it is learnt from the
    population, which one shadow model is asked about; that model was told what the target was.

    Raises:
        ValueError: nothing of this kind crossed, or the shadow model cannot be trained.
    """
    made = []
    for target, upload in zip(recorded.targets, recorded.uploads(), strict=True):
        received = [one[target] for one in recorded.received if target in one]
        message = received[-1] if received else {}
        codes, pairs = _read(upload, message, recorded.history(target), knowledge)
        made.append(inverse(*pairs)(codes))
    return Scores(torch.stack(made), "images")


def inverse(said: Tensor, inputs: Tensor, ridge: float = RIDGE) -> Callable[[Tensor], Tensor]:
    """The linear map, with a constant, that makes inputs (N, D) of what is said of them (N, H).

    W = (A^T A + ridge I)^-1 A^T X, with A the rows of what is said and a 1.
    """
    given = _with_one(said)
    gram = given.T @ given + ridge * torch.eye(given.shape[1], dtype=given.dtype)
    weight = torch.linalg.solve(gram, given.T @ inputs.double())
    return lambda codes: _with_one(codes) @ weight


def _read(
    upload: Received, received: Message, history: History, knowledge: Knowledge
) -> tuple[Tensor, Pairs]:
    """A row for each label (C, H), and pairs to learn from."""
    payload, classes = upload.payload, knowledge.num_classes
    if "prototypes" in payload:
        return payload["prototypes"].double(), _own(knowledge, hidden=True)
    if "means" in payload:
        return _levels(payload["means"]), _own(knowledge, hidden=False)
    if "features" in received and received["features"].ndim == 3:
        return received["features"].double().mean(1), _own(knowledge, hidden=True)
    x, about, said = newest_predictions(history)
    sure = torch.full((classes, classes), (1 - SURE) / max(classes - 1, 1))
    sure.fill_diagonal_(SURE)
    return _levels(sure), (_levels(said), knowledge.as_numbers(rows(x, about)))


def _own(knowledge: Knowledge, hidden: bool) -> Pairs:
    """What a shadow model that learnt from the population says of it, and the population."""
    config, population = knowledge.known("shadowing"), knowledge.known("population")
    everything = [torch.arange(len(population))]
    shadow = config.train(population, everything, population, knowledge.seed)
    x = rows(population.x, population.rows)
    outputs = config.task.models[config.group].predict(shadow.params[0], x)
    said = outputs.hidden[-1].double() if hidden else _levels(outputs.logits.softmax(-1))
    return said, knowledge.as_numbers(x)


def _levels(said: Tensor) -> Tensor:
    """Centred logarithms of probabilities: logits, but for what softmax forgets."""
    levels = said.double().clamp(min=SMALLEST).log()
    return levels - levels.mean(-1, keepdim=True)


def _with_one(table: Tensor) -> Tensor:
    table = table.double()
    return torch.cat([table, table.new_ones(len(table), 1)], dim=1)
