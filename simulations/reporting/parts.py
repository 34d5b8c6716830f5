"""What a report holds: results that can be compared, with tables and figures; recipes; facts."""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from simulations.reporting.figures import (
    common,
    curves,
    embeddings,
    graph,
    graph_clients,
    privacy,
    systems,
)
from simulations.reporting.figures import recipes as plots_recipes
from simulations.results import run_folder
from simulations.results.model_selection import Choice, choices
from simulations.results.run_results import Result, labelled, results
from simulations.results.tables import Table, table
from simulations.survey import experiments, page
from simulations.survey.claims import About, BySeed, verdict

ROOMS = (curves, privacy, common, systems, graph_clients, graph, embeddings)


class Drawn(NamedTuple):
    """A figure on a wide sheet, and on a narrow one."""

    wide: common.Figure
    narrow: common.Figure


class Section(NamedTuple):
    """Results that can be compared, their table, and their figures by name."""

    results: Sequence[Result]
    table: Table
    figures: Mapping[str, Drawn]


class Recipe(NamedTuple):
    """A recipe of the surveys that the runs are of, its numbers by seed, and its figures."""

    name: str
    said: About
    by_seed: BySeed
    figures: Mapping[str, Drawn]


class Report(NamedTuple):
    """What a page tells.

    Attributes:
        sections, recipes: see there.
        facts: of the runs, each value once.
        left_out: folders of runs that are not finished.
        select: the metric that settings were chosen by, if they were.
        choices: what was chosen.
    """

    sections: Sequence[Section]
    recipes: Sequence[Recipe]
    facts: Mapping[str, Sequence[str]]
    left_out: Sequence[str] = ()
    select: str = ""
    choices: Sequence[Choice] = ()


def gather(runs: Sequence[Any], folders: Sequence[Path] = (), select: str = "") -> Report:
    """All that a page tells of some runs of `simulations.results.run_folder`.

    Raises:
        ValueError: none of them is finished; nothing to select by.
    """
    found = results(runs)
    if not found:
        where = ", ".join(map(str, folders)) or "no folder"
        raise ValueError(
            f"no finished run in {where}: expected a folder with run.json and a metrics.jsonl that "
            'ends with a "run" record; start one with `kdsim run`, or end one with `kdsim resume`'
        )
    chosen = choices(found, select) if select else []
    shown = labelled(result for c in chosen for result in c.results) if chosen else found
    left_out = [str(run.path) for run in runs if not run.complete]
    parts, judged = sections(shown), recipes(runs)
    return Report(parts, judged, facts(runs, found, shown), left_out, select, chosen)


def sections(found: Sequence[Result]) -> list[Section]:
    """A section for each kind, data and protocol; a method looks the same in all of them."""
    look = common.looks(result.label for result in found)
    groups = [list(group) for _, group in groupby(found, key=lambda result: result.group)]
    return [Section(group, table(group), _drawings(group, look)) for group in groups]


def recipes(runs: Sequence[Any]) -> list[Recipe]:
    """The recipes of the surveys that the finished runs are of, settings and all."""
    complete = [run for run in runs if run.complete]
    ran = {run.experiment.get(key) for run in complete for key in ("kind", "recipe")}
    found = []
    for name in experiments.names() if ran else ():
        document = experiments.document(name)
        if name in ran or ran & {"fed", "graph"} & set(document):
            said, by_seed = experiments.described(name), page.measured(document, complete)
            if verdict(said, by_seed) != "not run":
                wide, narrow = (
                    plots_recipes.drawings(said, by_seed, sheet)
                    for sheet in (common.WIDE, common.NARROW)
                )
                drawn = {name: Drawn(wide[name], narrow[name]) for name in wide}
                found.append(Recipe(name, said, by_seed, drawn))
    return found


def named(found: Report) -> dict[str, Drawn]:
    """The figures by the names of their files: of a section its number comes first."""
    own = {
        f"{number}-{name}": figure
        for number, part in enumerate(found.sections, 1)
        for name, figure in part.figures.items()
    }
    return own | {
        f"recipe-{one.name}-{name}": figure
        for one in found.recipes
        for name, figure in one.figures.items()
    }


def facts(
    runs: Sequence[Any], found: Sequence[Result], shown: Sequence[Result]
) -> dict[str, list[str]]:
    """What was run, with what, where; each value once."""
    distinct = len(_runs(found))
    said: dict[str, list[str]] = {
        "runs": [f"{distinct}"],
        "methods": sorted({result.label for result in shown}),
        "data": sorted({result.data for result in shown}),
        "seeds": [str(seed) for seed in sorted({result.seed for result in shown})],
    }
    for run in runs:
        head = run_folder.head(run.path)
        for name, value in head.items():
            if name not in ("experiment", "hash", "seed"):
                said.setdefault(name, []).append(_phrase(value))
    records = sum(r.get("record") == "run" for run in runs for r in run.records)
    if records > distinct:
        repeated = records - distinct
        said["repeated"] = [f"{repeated} of the same experiment and seed, counted once"]
    if (fewer := len(_runs(shown))) < distinct:
        said["reported"] = [f"{fewer}, of the selected settings"]
    return {name: list(dict.fromkeys(values)) for name, values in said.items()}


def _runs(found: Sequence[Result]) -> set[tuple[Any, ...]]:
    """The runs that results are of: one of a recipe has a result for each of its arms."""
    return {_identity(result) for result in found}


def _identity(result: Result) -> tuple[Any, ...]:
    method = "" if result.kind == "survey" else result.method
    return (*result.group, method, tuple(result.settings.items()), result.seed)


def _drawings(group: Sequence[Result], look: Mapping[str, common.Look]) -> dict[str, Drawn]:
    wide, narrow = (
        {name: fig for room in ROOMS for name, fig in room.drawings(group, look, sheet).items()}
        for sheet in (common.WIDE, common.NARROW)
    )
    return {name: Drawn(wide[name], narrow[name]) for name in wide}


def _phrase(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_phrase(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(_phrase, value))
    return value if isinstance(value, str) else json.dumps(value)
