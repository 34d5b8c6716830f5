"""Whether most of a client's records have a property that is none of the labels to be learnt.

Giuseppe Ateniese, Luigi V. Mancini, Angelo Spognardi, Antonio Villani, Domenico Vitali, Giovanni
Felici. "Hacking Smart Machines with Smarter Ones: How to Extract Meaningful Data from Machine
Learning Classifiers". IJSN 2015. https://arxiv.org/abs/1306.4447
"""

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from fedkd.messages import Received
from kdattacks.core import Knowledge, Recorded, Scores
from kdcore.rng import generator as stream

FEWEST = 4
SHARES = (0.8, 0.2)  # of records with the property, of a shadow that has it and of one that has not


def majority(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """How sure a classifier of uploads is that the property is there, (T,).

    The classifier, a logistic regression, learns from the uploads of shadow models, half of them on
    parts of the population with much of the property, half with little. Needs the population, the
    trait of its examples, and an even number of shadow models from 4 on.

    Raises:
        ValueError: the population has too few examples with the property, or without.
    """
    knowledge.enough(FEWEST)
    population, config = knowledge.known("population"), knowledge.known("shadowing")
    parts = mixed(
        knowledge.known("trait")[population.rows], knowledge.shadows_wanted, knowledge.seed
    )
    shadows = config.train(population, parts, population, knowledge.seed + 1)
    seen = torch.stack([_flat(one) for one in shadows.sent])
    learner = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    learner.fit(seen.numpy(), [number % 2 == 0 for number in range(len(parts))])
    asked = torch.stack([_flat(one) for one in recorded.uploads()])
    return Scores(torch.from_numpy(learner.decision_function(asked.numpy())), "property")


def mixed(trait: Tensor, wanted: int, seed: int) -> list[Tensor]:
    """Places of examples for each shadow: of even ones 80 % have the trait, of odd ones 20 %."""
    with_it, without = trait.nonzero().flatten(), (~trait).nonzero().flatten()
    size = int(min(len(with_it), len(without)) / max(SHARES))
    if size < 2:
        raise ValueError(
            f"{len(with_it)} examples of the attacker's have the property and {len(without)} have "
            "not; it takes some of both"
        )
    found = []
    for number in range(wanted):
        source = stream(seed, "property", number)
        count = round(SHARES[number % 2] * size)
        found.append(
            torch.cat(
                [
                    kind[torch.randperm(len(kind), generator=source)[:many]]
                    for kind, many in ((with_it, count), (without, size - count))
                ]
            )
        )
    return found


def _flat(upload: Received) -> Tensor:
    """All numbers of an upload in a row."""
    numbers = [value.double().flatten() for value in upload.payload.values()]
    if not numbers:
        raise ValueError("nothing crossed from which a property could be told")
    return torch.cat(numbers)
