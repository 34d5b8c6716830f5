"""What a search may choose: settings, and the values of each, as [tune] of a file says.

[tune]
trials = 20                              # of each algorithm, with settings of its own
seeds = [100, 101]                       # none of those that results are of

[tune.search]
local.learning_rate = "log(0.001, 0.1)"  # between the two, by factors; for all that have it
fedmd.digest.epochs = "range(1, 10)"     # evenly, whole numbers where it is one; for fedmd alone
fedmd.temperature = [0.5, 1.0, 2.0]      # one of these
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, get_args

from kdcore import settings
from kdcore.settings import Setting, check_ranges
from simulations.config.experiments import KINDS, Experiment, Template, kind_of
from simulations.config.files import TUNE, Document, naming, put, tables
from simulations.config.grid import expand
from simulations.config.schema import check_keys, leaves, nearest, updated, values

SPAN = re.compile(r"(log|range)\(([^,]+),([^,]+)\)")
FORMS = "log(LOW, HIGH), range(LOW, HIGH) or a list of values"
ON_VALIDATION = "_validation"  # how metrics end that settings may be chosen by
# Of an experiment, what is how a federation goes about it, and not what it is about.
FREE = {"clock.deadline", "clock.staleness", "clock.buffer", "clock.server_learning_rate"}
FREE |= {"same_start", "degree", "rewiring", "radius"}


@dataclass(frozen=True)
class Tune:
    """How a search goes about it."""

    trials: Annotated[int, Setting("settings that are tried, of each who learns", ge=1)] = 20
    seeds: Annotated[tuple[int, ...], Setting("of each trial; none that results are of")] = (
        100,
        101,
    )
    metric: Annotated[str, Setting("what is sought; by default the one on validation data")] = ""

    def __post_init__(self) -> None:
        """Refuse what makes no search, or one by what is to be reported."""
        check_ranges(self)
        if not self.seeds:
            raise ValueError("seeds is an empty list; give at least one, such as [100, 101]")
        if self.metric and not self.metric.endswith(ON_VALIDATION):
            raise ValueError(
                f"metric {self.metric} is measured on test examples, and nothing is chosen by "
                f"these; take one on validation examples, such as accuracy{ON_VALIDATION}"
            )


class Span(NamedTuple):
    """All numbers from `low` to `high`: by factors where `log`, whole ones where `whole`."""

    low: float
    high: float
    log: bool
    whole: bool


Values = Span | tuple[Any, ...]


class Learner(NamedTuple):
    """Who is tuned.

    Attributes:
        kind, name: a key of `KINDS`, and the algorithm or method.
        space: which settings are searched, by dotted names, and the values of each.
        default: the values that they have where nothing is searched.
    """

    kind: str
    name: str
    space: Mapping[str, Values]
    default: Mapping[str, Any]

    def put(self, document: Document, given: Mapping[str, Any]) -> Document:
        """The document with settings in the table of this one alone."""
        for key, value in given.items():
            path = [KINDS[self.kind].key, self.name, *key.split(".")]
            document = put(document, path, value, f"{key}={value!r}")
        return document


class Search(NamedTuple):
    """What a document with [tune] says: how, for whom, and the rest of the document."""

    how: Tune
    learners: tuple[Learner, ...]
    document: Document

    def trial(self, tried: Sequence[Mapping[str, Any]]) -> Document:
        """The document of a trial, with settings for each learner, on the seeds of the search."""
        seeds = {"seeds": list(self.how.seeds)}
        return self.with_settings([{**own, **seeds} for own in tried])

    def with_settings(self, found: Sequence[Mapping[str, Any]]) -> Document:
        """The document in which each learner has settings of its own."""
        document = self.document
        for one, own in zip(self.learners, found, strict=True):
            document = one.put(document, own)
        return document


def assignments(
    ranges: Sequence[str], trials: int | None, seeds: str | None, metric: str | None
) -> list[str]:
    """Flags of the command as assignments to [tune] (`simulations.config.files.override`).

    Raises:
        ValueError: a range without a name.
    """
    if wrong := [one for one in ranges if not one.partition("=")[1]]:
        raise ValueError(f"--search takes KEY=RANGE, a range being {FORMS}; got {wrong[0]!r}")
    asked = {"trials": trials, "seeds": seeds and f"[{seeds}]", "metric": metric}
    asked |= dict(f"search.{one}".split("=", 1) for one in ranges)
    return [f"{TUNE}.{key}={value}" for key, value in asked.items() if value is not None]


def read(document: Document, source: str) -> Search:
    """The search of a document, checked.

    Raises:
        ValueError: there is none, or one among what is not there; one line says what was meant.
    """
    rest = {key: table for key, table in document.items() if key != TUNE}
    with naming(source):
        given = tables(document).get(TUNE, {})
        start = "search."
        ranges = {k.removeprefix(start): v for k, v in given.items() if k.startswith(start)}
        own = {k: v for k, v in given.items() if not k.startswith(start)}
        check_keys(own, leaves(Tune), f"[{TUNE}]")
        how = updated(Tune(), own)
    experiments, _ = expand(rest, source)
    with naming(source):
        _check(experiments, how)
        return Search(how, tuple(_learners(experiments, ranges)), rest)


def digest(document: Document) -> str:
    """A hash of all that a search depends on: more trials of it begin with the same ones."""
    how = {key: value for key, value in document.get(TUNE, {}).items() if key != "trials"}
    said = {key: table for key, table in document.items() if key not in ("about", "resources")}
    return hashlib.sha256(json.dumps({**said, TUNE: how}, sort_keys=True).encode()).hexdigest()


def _check(experiments: Sequence[Experiment], how: Tune) -> None:
    """Raise ValueError for experiments of which nothing could be chosen without a test set."""
    for one in experiments:
        if kind_of(one) == "survey":
            raise ValueError(f"{one.name} is a recipe, which measures on test examples alone")
        if getattr(one, "validation", None) == 0:
            raise ValueError(
                "nothing to choose by: validation is 0, and settings are never chosen by test "
                "examples; set some apart, such as --set fed.validation=200"
            )
        if one.seed in how.seeds:
            raise ValueError(
                f"seed {one.seed} is one that results are of; search on others, such as --seeds "
                "100,101"
            )


def _learners(experiments: Sequence[Experiment], ranges: Mapping[str, Any]) -> Iterable[Learner]:
    """Those of the experiments, each with what is searched for it."""
    first = {(kind_of(one), one.name): one for one in reversed(experiments)}
    templates = {who: Template(who[0], KINDS[who[0]].get(who[1])) for who in reversed(first)}
    spaces: dict[tuple[str, str], dict[str, Values]] = {who: {} for who in templates}
    for key, value in ranges.items():
        for who, setting in _places(key, templates):
            spaces[who][setting] = _values(templates[who], setting, value)
    for (kind, name), space in spaces.items():
        if not space:
            raise ValueError(
                f"nothing is searched for {name}, and all are tuned as widely; give it a range, "
                f"such as --search '{name}.{_example(templates[kind, name])}=log(0.001, 0.1)', or "
                "leave it out"
            )
        start = f"{KINDS[kind].key}."
        all_values = {k.removeprefix(start): v for k, v in values(first[kind, name]).items()}
        yield Learner(kind, name, space, {key: all_values[key] for key in space})


def _places(
    key: str, templates: Mapping[tuple[str, str], Template]
) -> list[tuple[tuple[str, str], str]]:
    """Whose setting a name means: that of all that have it, or `fedmd.` and that of one."""
    bare = key.partition(".")[2] if key.partition(".")[0] in KINDS else key
    own = {who: _searchable(template) for who, template in templates.items()}
    alone = [(who, bare.removeprefix(f"{who[1]}.")) for who in own if bare.startswith(f"{who[1]}.")]
    found = [(who, bare) for who in own if bare in own[who]]
    found = found or [(who, name) for who, name in alone if name in own[who]]
    if found:
        return found
    if any(bare in template.known for template in templates.values()):
        raise ValueError(
            f"search {key}: it says what is to be learnt, or is for all the same, and a search is "
            "among settings of an algorithm; make it an axis of a grid, or set it"
        )
    known = [name for names in own.values() for name in names]
    known += [f"{who[1]}.{name}" for who, names in own.items() for name in names]
    names = ", ".join(who[1] for who in own)
    raise ValueError(f"search {key!r} is no setting of {names}{nearest(bare, known)}")


def _searchable(template: Template) -> list[str]:
    return [*leaves(template.learner), *(key for key in template.known if key in FREE)]


def _values(template: Template, key: str, given: Any) -> Values:
    """What a setting may be; ValueError for values that it cannot have."""
    span = SPAN.fullmatch(given.replace(" ", "")) if isinstance(given, str) else None
    found: Values
    if isinstance(given, list) and given:
        found = tuple(given)
    elif span:
        found = _span(template, key, given, *span.groups())
    else:
        raise ValueError(f"search {key} is {given!r}; expected {FORMS}")
    for value in found[:2] if isinstance(found, Span) else found:
        with naming(f"search {key}"):
            template.build({key: value})
    return found


def _span(template: Template, key: str, given: str, how: str, low: str, high: str) -> Span:
    kind: Any = settings.plain(template.known[key].hint)
    kinds = {*get_args(kind), kind}
    if not kinds & {int, float}:
        raise ValueError(f"search {key} is {given!r}, and it is no number; give a list of values")
    number: Any = float if float in kinds else int
    try:
        least, most = number(low), number(high)
    except ValueError:
        raise ValueError(f"search {key} is {given!r}; expected {FORMS}") from None
    if not least < most or (how == "log" and least <= 0):
        what = "0 < LOW < HIGH" if how == "log" else "LOW < HIGH"
        raise ValueError(f"search {key} is {given!r}; expected {what}")
    return Span(least, most, how == "log", number is int)


def _example(template: Template) -> str:
    """A setting of who learns that is a real number."""
    own = leaves(template.learner)
    rates = [key for key in own if key.endswith("learning_rate")]
    return next(iter([*rates, *own]), "SETTING")
