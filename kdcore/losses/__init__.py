"""Losses by what is transferred: responses, features, relations, information, rankings."""

__all__ = [
    "decoupled",
    "feature",
    "mutual_information",
    "ranking",
    "regression",
    "relation",
    "response",
    "sequence",
    "teacher_free",
]

# Modules that hold no losses, but what losses are made of.
PARTS = frozenset({"logarithms", "numerics", "precision"})
