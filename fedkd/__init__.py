"""Federated distillation: clients exchange what they predict, not what they are.

Read `fedkd.core` first (the nouns), then `fedkd.rounds.round` (one round), then any file of
`fedkd.algorithms` (one paper each).
"""
