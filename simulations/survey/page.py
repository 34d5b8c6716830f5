"""The page of the surveys, made from stored runs: a row for each term, and what came out of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkd.storage import atomic_files
from simulations.config import grid, identity
from simulations.config.schema import flatten
from simulations.results import run_folder
from simulations.results.summary import spread
from simulations.survey import experiments
from simulations.survey.claims import BySeed, Finding, findings, verdict

Document = Mapping[str, Any]
HEAD = """\
# The surveys, measured

Made by `kdsim survey`; do not edit. One row for each term of three surveys: Gou, Yu, Maybank and
Tao, "Knowledge Distillation: A Survey" (IJCV 2021); Hu et al., "Teacher-Student Architecture for
Knowledge Distillation: A Survey" (2023); Ku et al. on privileged information and distillation
(2020). Each row is a file in `simulations/experiments/survey/` with its controls built in; run it
with the command that stands there.

**Effect**: what the first claim measures, mean over n seeds with a 95% t-interval, paired by seed
where it is a difference or a ratio; "wins": seeds in which it has the claimed direction. Accuracies
are shares: 0.05 is five points. In a claim `>=` and `<=` are of the mean, `>` and `<` of the whole
interval; `in 0.9` is of the seeds.

**Verdict**: *works*: every claim and every control holds. *Less than claimed*: the effect is there,
and smaller. *No gain here*: the interval includes no effect. *Worse*: it excludes it on the other
side. *Misleading*: the claims hold, and a control says that the effect is not owed to what the term
promises. *Too few seeds*: one or two, which give no interval, and not all holds. "Here" is meant:
small networks, small data, one setting each, not searched for.

**Searched**: of terms whose claims do not hold as they promise, what came out where each arm had a
setting of its own, the best of as many for each on seeds 100 to 102, compared on seeds 0 to 4 with
a 95% t-interval, paired by seed;
`python -m benchmarks.survey_settings NAME --trials N --out FOLDER`, N as the line says, prints it.
"""


def write(folders: Sequence[Path], out: Path) -> Path:
    """Write the page, and beside it its numbers as JSON.

    Raises:
        ValueError: no folder holds a finished run of a recipe.
    """
    missing = [str(folder) for folder in folders if not Path(folder).is_dir()]
    if missing:
        raise ValueError(f"{missing[0]} is no folder; name those that `kdsim recipe` has written")
    runs = [run for folder in folders for run in run_folder.load(folder) if run.complete]
    found = {name: measured(experiments.document(name), runs) for name in experiments.names()}
    if not any(found.values()):
        raise ValueError(
            f"no finished run of a recipe in {', '.join(map(str, folders))}; start one with "
            "`kdsim recipe NAME`, or all with `kdsim recipe --all`"
        )
    atomic_files.write(out, page(found))
    return out


def measured(document: Document, runs: Iterable[run_folder.Run]) -> BySeed:
    """Seed -> metrics, of those runs that are this experiment's, whatever their seeds.

    An experiment of several methods has them in the names: `accuracy_dsfl`, and of graphs the
    protocol too, `accuracy_glnn_withheld`.
    """
    experiments, _ = grid.expand(dict(document), "recipe")
    one = experiments[0]  # all are of the same recipe or kind
    wanted = {_timeless(identity.as_first_named(identity.settings(e), e)) for e in experiments}
    found: dict[int, dict[str, float]] = {}
    for run in runs:
        if _timeless(identity.as_first_named(run.experiment, one)) in wanted:
            end = next(record for record in run.records if record["record"] == "run")
            own = {
                name + _whose(end): value
                for name, value in end["metrics"].items()
                if value is not None
            }
            found.setdefault(end["seed"], {}).update(own)
    return dict(sorted(found.items()))


def page(found: Mapping[str, BySeed]) -> str:
    """The page as Markdown."""
    parts = [HEAD, _overview(found)]
    for group in experiments.GROUPS:
        names = [name for name in found if experiments.described(name).group == group]
        if names:
            parts.append(f"## {group.capitalize()}\n")
            parts += [_entry(name, found[name]) for name in names]
    return "\n".join(parts)


def findings_of(name: str, by_seed: BySeed) -> list[str]:
    """Verdict, claims and controls of a recipe, a line each."""
    said = experiments.described(name)
    lines = [f"{said.term}: {verdict(said, by_seed)}"]
    for kind, texts in (("claim", said.claims), ("control", said.controls)):
        lines += [f"  {kind}: {_finding(found)}" for found in findings(texts, by_seed)]
    return lines


def _overview(found: Mapping[str, BySeed]) -> str:
    rows = ["| term | command | n | effect | verdict |", "| --- | --- | ---: | --- | --- |"]
    for name, by_seed in found.items():
        said = experiments.described(name)
        first = findings(said.claims, by_seed)[:1]
        effect = _effect(first[0]) if first and first[0].mean else "–"
        rows.append(
            f"| {said.term} | `kdsim recipe {name}` | {len(by_seed)} | {effect} | "
            f"{verdict(said, by_seed)} |"
        )
    return "\n".join([*rows, ""])


def _entry(name: str, by_seed: BySeed) -> str:
    said = experiments.described(name)
    lines = [f"### {said.term[:1].upper()}{said.term[1:]}\n", f"{said.what} ({said.source}.)\n"]
    lines.append(
        f"`kdsim recipe {name}`; loss: `{said.loss}`; verdict: **{verdict(said, by_seed)}**."
    )
    lines += [said.why] if said.why else []
    for kind, texts in (("Claim", said.claims), ("Control", said.controls)):
        items = [f"- {kind}: {_finding(found)}" for found in findings(texts, by_seed)]
        lines += ["", *items] if items else []
    lines += ["", *(f"- Searched: {line}" for line in said.searched)] if said.searched else []
    names = dict.fromkeys(metric for metrics in by_seed.values() for metric in metrics)
    if names:
        lines += ["", "| measured | mean | std | n |", "| --- | ---: | ---: | ---: |"]
        lines += [_row(metric, by_seed) for metric in names]
    return "\n".join([*lines, ""])


def _row(metric: str, by_seed: BySeed) -> str:
    one = spread(metrics.get(metric) for metrics in by_seed.values())
    std = "" if one["std"] is None else f"{one['std']:.3g}"
    return f"| {metric.replace('_', ' ')} | {one['mean']:.4g} | {std} | {one['n']} |"


def _finding(found: Finding) -> str:
    if found.mean is None:
        return f"`{found.claim.text}`: not measured"
    outcome = "holds" if found.holds else "does not hold"
    return f"`{found.claim.text}` {outcome}: {_effect(found)}"


def _effect(found: Finding) -> str:
    mean = found.mean
    assert mean is not None
    sign = "+" if found.claim.sign == "-" else ""
    text = f"{mean.mean:{sign}.3g}"
    if mean.low is not None and mean.high is not None:
        text += f" ({mean.low:{sign}.3g} to {mean.high:{sign}.3g})"
    if found.claim.sign:
        text += f", wins {found.wins}/{mean.n}"
    return text


def _whose(end: Mapping[str, Any]) -> str:
    """What tells the numbers of one method from those of another in the same experiment."""
    parts = {"fed": ("method",), "graph": ("method", "protocol")}.get(end["kind"], ())
    return "".join(f"_{end[part]}" for part in parts).replace("-", "_")


def _timeless(settings: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in flatten(settings).items() if k != "seed"}, sort_keys=True)
