"""The words in names are the field's: metaphors of a few people do not come back."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "kdcore",
    "fedkd",
    "graphkd",
    "fedgraphkd",
    "kdattacks",
    "simulations",
    "kdsim",
    "benchmarks",
    "examples",
)

# A word that only its inventor knows -> what the field says.
PRIVATE = {
    "lesson": "FitSpec, or the terms of a loss",
    "lessons": "the terms of a loss, or batches",
    "teaching": "a loss, or the training of the teacher",
    "told": "what was received, broadcast, or predicted",
    "heard": "uploads, or those who sent them",
    "answers": "predictions, soft labels, or replies",
    "crowd": "an ensemble of teachers",
    "desk": "a queue of jobs",
    "meeting": "the discovery of nodes",
    "party": "a client",
    "parties": "clients",
    "parcel": "what is serialized",
    "shelf": "a store of clients",
    "course": "a run",
    "portrait": "predictions on test examples",
    "workbench": "data sets, or students",
    "cookbook": "experiments",
    "tolerant": "fault tolerance",
}
COMPOUNDS = {"fault_tolerant"}  # in which one of them is the field's


def names(tree):
    """Every name that a file gives: of functions, classes, parameters, variables and imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname


def private(name):
    """The private words in a name."""
    if name.strip("_") in COMPOUNDS:
        return []
    return [word for word in name.lower().strip("_").split("_") if word in PRIVATE]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_is_a_private_metaphor(package):
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        where = path.relative_to(ROOT)
        parts = {part.removesuffix(".py") for part in where.parts}
        for name in sorted(parts | set(names(ast.parse(path.read_text(encoding="utf-8"))))):
            found += [f"{where}: {name}; say {PRIVATE[word]}" for word in private(name)]
    assert not found


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("def _told(x): ...", "told"),
        ("for party in []: ...", "party"),
        ("self.heard = 1", "heard"),
        ("def f(soft_answers): ...", "answers"),
        ("class Crowd: ...", "crowd"),
        ("import a as desk", "desk"),
    ],
)
def test_each_kind_of_name_is_seen(text, word):
    assert word in [found for name in names(ast.parse(text)) for found in private(name)]
