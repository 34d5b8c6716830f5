"""Losses by what is transferred: responses, features, relations, information, rankings."""

# Modules that hold no losses, but what losses are made of.
PARTS = frozenset({"logarithms", "numerics", "precision"})
