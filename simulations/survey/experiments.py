"""The recipes' experiment files: which there are, and several of them as one experiment."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from kdcore.registry import unknown
from simulations.config import files, library
from simulations.config.experiments import KINDS
from simulations.survey.claims import About, about

FOLDER = library.FOLDER / "survey"
GROUPS = (
    "objectives",
    "knowledge",
    "schemes",
    "applications",
    "privileged information",
    "explanation",
)


def names() -> list[str]:
    """The recipes there are, in the order of the surveys."""
    said = {name: described(name) for name in library.names(FOLDER)}
    return sorted(said, key=lambda name: (GROUPS.index(said[name].group), said[name].order, name))


def document(name: str) -> files.Document:
    """A recipe's file.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    known = library.names(FOLDER)
    if name not in known:
        raise unknown("recipe", name, known)
    return files.read(FOLDER / f"{name}.toml")


@cache
def described(name: str) -> About:
    """What a recipe is about, and what it claims."""
    found = about(document(name), f"{name}.toml")
    if found.group not in GROUPS:
        raise ValueError(f"{name}.toml: group is {found.group!r}; it has to be one of {GROUPS}")
    return found


def chosen(name: str | None, every: bool) -> list[str]:
    """The recipes that a command means.

    Raises:
        ValueError: neither a name nor all were asked for, or both.
    """
    if (name is None) != every:
        raise ValueError(
            "name one recipe (`kdsim list recipes`), or take them all with --all, not both"
        )
    return names() if name is None else [name]


def joined(recipes: Iterable[str], seeds: int | list[int] | None = None) -> files.Document:
    """One experiment that runs several recipes, each as its file says.

    Args:
        recipes: their names.
        seeds: how many, or which, in place of what the files say.
    """
    whole: dict[str, dict[str, Any]] = {}
    for name in recipes:
        file = document(name)
        for kind in [kind for kind in KINDS if kind in file]:
            if seeds is not None:
                file[kind]["seeds"] = seeds
            if kind == "survey":
                shared = whole.setdefault(kind, {"recipe": []})
                key = file[kind].pop("recipe")
                shared["recipe"].append(key)
                own = whole.setdefault("recipe", {})
                own[key] = {**file[kind], **file.get("recipe", {}).get(key, {})}
            else:
                assert kind not in whole, f"two recipes are of kind [{kind}]"
                whole[kind] = file[kind]
                key = KINDS[kind].key
                whole |= {key: file[key]} if key in file else {}
    return whole
