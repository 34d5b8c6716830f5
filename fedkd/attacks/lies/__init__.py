"""Lies within the border, `--liars SHARE:LIE`: nothing in an upload says that it is one.

One in each file. Several clients may lie at once, and know what all others send.
"""

from fedkd.attacks.lies.class_prior import ClassPrior
from fedkd.attacks.lies.confident import Confident
from fedkd.attacks.lies.label_flipping import LabelFlipping
from fedkd.attacks.lies.lie import Lie
from fedkd.attacks.lies.noise import Noise
from fedkd.attacks.lies.permutation import Permutation
from fedkd.attacks.lies.sign_flipping import SignFlipping
from fedkd.attacks.lies.weakest_class import WeakestClass
from kdcore.registry import Registry, members, subclass_of

__all__ = ["LIES", "REGISTRY", "Lie"]

LIES: dict[str, type[Lie]] = {
    "label-flip": LabelFlipping,
    "sign-flip": SignFlipping,
    "permutation": Permutation,
    "confident": Confident,
    "weakest-class": WeakestClass,
    "class-prior": ClassPrior,
    "noise": Noise,
}

REGISTRY: Registry[type[Lie]] = Registry(
    "lie",
    members(LIES),
    "kdsim.lies",
    subclass_of(Lie),
    "a class derived from fedkd.attacks.lies.Lie",
)
