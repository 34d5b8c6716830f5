"""Federated distillation: clients exchange what they predict, not what they are.

Read `fedkd.core` first (the nouns), then `fedkd.rounds.round` (one round), then any file of
`fedkd.algorithms` (one paper each).

`__all__` names the modules, none of which is imported before it is asked for.
"""

__all__ = [
    "algorithms",
    "attacks",
    "communication",
    "components",
    "consensus",
    "core",
    "data",
    "encoders",
    "engines",
    "flower",
    "losses",
    "messages",
    "models",
    "privacy",
    "rounds",
    "sharding",
    "storage",
    "targets",
]
