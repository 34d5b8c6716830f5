"""Every attack: what is planted is found, what is not there is not, and nobody is told the truth.

An attack that is added needs a case: what it would see if all were given away, and if nothing were.
"""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from fedkd.algorithms.dsfl import DSFL
from fedkd.core import Task
from fedkd.messages import Received
from fedkd.models import build
from fedkd.rounds.round import public_of
from kdattacks import REGISTRY, Knowledge, Recorded, ShadowConfig, Shadows, scoring, truth
from kdattacks.shadows import halves
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig

CLASSES, TARGETS, N, Z, SIDE = 4, 6, 40, 60, 24
SURE, DEVIATIONS = 12.0, 3.29  # of a logit; of an interval of 99.9 %


def noise(*shape, seed):
    return torch.randn(*shape, generator=generator(seed, "noise"))


def table():
    """Candidates, then a population: points near the corner of their label, far from each other."""
    y = torch.arange(N + Z) % CLASSES
    x = 1.5 * noise(N + Z, SIDE, seed=1) + 3 * F.one_hot(y, SIDE)
    return x, y, Examples(x, y, torch.arange(N)), Examples(x, y, torch.arange(N, N + Z))


def replies(member, leaking, seed):
    """(T, N + Z, C): members are answered with certainty, or all alike."""
    _, y, _, _ = table()
    found = 0.5 * noise(len(member), N + Z, CLASSES, seed=seed)
    if leaking:
        known = F.pad(member.double(), (0, Z))
        found = found + SURE * known.unsqueeze(-1) * F.one_hot(y, CLASSES)
    return found.float()


def membership(leaking):
    """Half of the candidates are members, of targets and of shadow models, in the same way."""
    x, y, candidates, population = table()
    member, shadowed = torch.zeros(TARGETS, N).bool(), torch.zeros(8, N).bool()
    for rows, wanted, name in ((member, TARGETS, "targets"), (shadowed, 8, "shadows")):
        for row, part in zip(rows, halves(N, wanted, generator(0, name)), strict=True):
            row[part] = True
    task, config, public = federation(x[:N], copies=3)
    numbers = range(TARGETS)
    sent = {k: _sent(member[k], leaking, public, y, k) for k in numbers}
    recorded = Recorded(
        tuple(numbers),
        ({},),
        (sent,),
        (public,),
        dict(enumerate(replies(member, leaking, 2))),
    )
    knowledge = Knowledge(CLASSES, candidates, population, config, 8)
    theirs = tuple(_sent(row, leaking, public, y, 9 + k) for k, row in enumerate(shadowed))
    vars(knowledge)["shadows"] = Shadows(shadowed, replies(shadowed, leaking, 3), theirs, ())
    return recorded, knowledge, truth.Facts(member)


def federation(public, copies=1):
    x, _, _, _ = table()
    algorithm = DSFL(local=TrainingConfig(learning_rate=0.2, epochs=4, batch_size=8))
    task = Task({"m": build("mlp-32", (SIDE,), CLASSES)}, CLASSES, public.repeat(copies, 1))
    asked = public_of(algorithm, task, 0, 1)
    return task, ShadowConfig(algorithm, task, "m", ({},), (asked,)), asked


def _sent(member, leaking, public, y, seed):
    """Public examples that are the candidates: the right label of members alone is known."""
    copies = len(public.rows) // N
    right = F.one_hot(y[:N], CLASSES).double()
    known = 0.97 * right + 0.01
    said = torch.where(member.unsqueeze(1), known, torch.full_like(right, 1 / CLASSES))
    if not leaking:
        said = (0.3 * noise(N, CLASSES, seed=seed)).softmax(1).double()
    return Received(seed, "m", {"probabilities": said.repeat(copies, 1).float()}, 1.0)


def held_labels(leaking):
    counts = torch.tensor([[9, 0, 3, 0], [0, 8, 0, 1], [2, 2, 0, 7], [0, 0, 12, 1], [5, 0, 0, 0]])
    counts = counts.repeat(8, 1)
    said = counts / counts.sum(1, keepdim=True)
    if not leaking:
        said = noise(*counts.shape, seed=4).softmax(1)
    _, _, asked = federation(table()[0][:N])
    sent = {
        k: Received(k, "m", {"probabilities": row.repeat(N, 1)}, 1.0) for k, row in enumerate(said)
    }
    recorded = Recorded(tuple(sent), ({},), (sent,), (asked,))
    return recorded, Knowledge(CLASSES), truth.LabelCounts(counts)


def record_counts(leaking):
    counts = torch.tensor([3, 17, 8, 21, 5, 40])
    sent = {k: Received(k, "m", {}, float(n) if leaking else 1.0) for k, n in enumerate(counts)}
    recorded = Recorded(tuple(sent), ({},), (sent,), (None,))
    return recorded, Knowledge(CLASSES), truth.RecordCounts(counts)


def made_images(leaking):
    """Sure predictions of the very means, of which the images are to be made."""
    means = noise(CLASSES, SIDE, seed=5)
    _, _, asked = federation(means, copies=10)
    sure = (6 * torch.eye(CLASSES)).softmax(1).repeat(10, 1)
    sent = {
        k: Received(
            k,
            "m",
            {"probabilities": sure if leaking else noise(40, CLASSES, seed=40 + k).softmax(1)},
            1.0,
        )
        for k in range(TARGETS)
    }
    every = means.repeat(TARGETS, 1, 1)
    held = torch.ones(TARGETS, CLASSES).bool()
    recorded = Recorded(tuple(sent), ({},), (sent,), (asked,))
    return recorded, Knowledge(CLASSES), truth.Images(every, held, table()[0].mean(0))


def linked(leaking):
    """A node and its partner say the same; others, whatever."""
    said = noise(200, CLASSES, seed=6)
    first = torch.arange(0, 200, 2)
    if leaking:
        said[first + 1] = said[first] + 1e-6
    pairs = torch.stack([first.repeat(2), torch.cat([first + 1, first.roll(1)])])
    so = torch.tensor([True, False]).repeat_interleave(100).unsqueeze(0)
    recorded = Recorded(("student",), predictions={"student": said})
    return recorded, Knowledge(CLASSES, pairs=pairs), truth.Facts(so)


def linked_by_answers(leaking):
    """Targets that answer about a node by its partner's features too, or by its own alone."""
    first = torch.arange(0, 40, 2)
    partner = torch.arange(40).view(-1, 2).flip(1).flatten()
    pairs = torch.stack([first.repeat(2), torch.cat([first + 1, first.roll(1)])])
    so = torch.tensor([True, False]).repeat_interleave(20).unsqueeze(0)
    head = noise(SIDE, CLASSES, seed=7)

    def replies(features):
        own = features @ head
        return own + own[partner] if leaking else own

    recorded = Recorded((0,), replies={0: replies})
    x = noise(40, SIDE, seed=8)
    return recorded, Knowledge(CLASSES, pairs=pairs, features=x), truth.Facts(so)


def linked_by_a_model_that_was_sent(leaking):
    """A model that knows the partner of a node for its like, or another one."""
    recorded, knowledge, so = linked_by_answers(leaking)
    _, config, asked = federation(table()[0][:N])
    x = knowledge.features.clone()
    if leaking:
        x[1::2] = x[::2] + 1e-6
    params = config.task.models["m"].init(generator(0, "sent"))
    sent = {0: Received(0, "m", params, 1.0)}
    known = replace(knowledge, features=x, shadowing=config)
    return Recorded((0,), ({},), (sent,), (asked,)), known, so


def with_property(leaking):
    """Clients whose records are nearly all of the first labels, or nearly none, as they trained."""
    x, y, _, population = table()
    _, config, asked = federation(x[:N])
    trait, rows = y < CLASSES // 2, population.rows
    parts = [torch.cat([rows[trait[rows]][k : k + 18], rows[~trait[rows]][:2]]) for k in range(6)]
    parts += [torch.cat([rows[~trait[rows]][k : k + 18], rows[trait[rows]][:2]]) for k in range(6)]
    everything = Examples(x, y, torch.arange(N + Z))
    sent = config.train(everything, parts, population, 77).sent
    if not leaking:
        sent = [
            Received(k, "m", {"probabilities": noise(N, CLASSES, seed=60 + k).softmax(1)}, 1.0)
            for k in range(12)
        ]
    recorded = Recorded(tuple(range(12)), ({},), (dict(enumerate(sent)),), (asked,))
    knowledge = Knowledge(CLASSES, None, population, config, 8, trait=trait)
    return recorded, knowledge, truth.Facts(torch.arange(12) < 6)


CASES = {
    **dict.fromkeys(("yeom", "lira", "lira-offline", "rmia", "nodes"), membership),
    **dict.fromkeys(("public", "public-nearest"), membership),
    "labels": held_labels,
    "counts": record_counts,
    "invert": made_images,
    "links": linked,
    "links-sent": linked_by_a_model_that_was_sent,
    "links-influence": linked_by_answers,
    "property": with_property,
}
NAMES = REGISTRY.names()


def attacked(name, leaking, seed=0):
    recorded, knowledge, true = CASES[name](leaking)
    scores = REGISTRY.get(name)(recorded, knowledge, generator(seed, name))
    return scores, true.decisions(scores, generator(seed, "control"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_given_away_is_found(name):
    _, found = attacked(name, leaking=True)
    assert scoring.auc(found.values, found.truth) == 1


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_is_given_away_nothing_is_found(name):
    _, found = attacked(name, leaking=False)
    low, high = scoring.interval(found.values, found.truth, DEVIATIONS)
    assert low <= scoring.auc(found.values, found.truth) <= high


@pytest.mark.parametrize("name", NAMES)
def test_the_control_is_a_guess_whatever_is_given_away(name):
    _, found = attacked(name, leaking=True)
    low, high = scoring.interval(found.values, found.control, DEVIATIONS)
    assert low <= scoring.auc(found.values, found.control) <= high
    assert found.control.sum() == found.truth.sum()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_scores(name):
    first, second = (attacked(name, leaking=True)[0] for _ in range(2))
    assert first.of == second.of
    assert torch.equal(first.values, second.values)


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_is_a_short_file_that_cites_its_paper(name):
    attack = REGISTRY.get(name)
    assert list(inspect.signature(attack).parameters) == ["recorded", "knowledge", "generator"]
    text = Path(inspect.getfile(attack)).read_text()
    assert "https://arxiv.org/abs/" in text[:900]
    assert len(text.splitlines()) <= 130
    assert "kdattacks.truth" not in text
