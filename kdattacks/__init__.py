"""Attacks on privacy: what can be learnt from what crossed, and from what a model answers.

    from kdattacks import REGISTRY

    lira = REGISTRY.get("lira")                       # or "path/mine.py:attack"
    scores = lira(recorded, knowledge, generator)     # Recorded, Knowledge -> Scores

Read `kdattacks.core` first (the nouns), then any file of `kdattacks.attacks` (one paper each). What
is true is compared with the scores in `kdattacks.truth`, and drawn as an ROC curve by
`kdattacks.scoring`. Byzantine clients, who attack the result and not the privacy, are in
`fedkd.attacks`.
"""

from kdattacks.attacks import REGISTRY
from kdattacks.core import Attack, Knowledge, Recorded, Scores
from kdattacks.shadows import ShadowConfig, Shadows

__all__ = [
    "REGISTRY",
    "Attack",
    "Knowledge",
    "Recorded",
    "Scores",
    "ShadowConfig",
    "Shadows",
]
