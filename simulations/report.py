"""One page about runs: what was run, tables, figures; it needs nothing outside the file."""

import csv
import io
import json
import os
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from simulations import plots, plots_graph, plots_small, plots_system, store
from simulations.selection import Choice, choices
from simulations.tables import Quantity, Result, Table, labelled, results, table, tables

__all__ = ["comma_separated", "markdown", "tables", "write_figures", "write_report", "write_tables"]

LINES = (
    "Line: mean over seeds; band: from the smallest to the largest seed. The legend is in the "
    "order of the last round."
)
GROUPS = (
    "Mean, and sample standard deviation over seeds; below each group, how many test examples a "
    "run has in it. The first six methods."
)
CAPTIONS = {
    "accuracy_per_round": "Accuracy on the global test set after each round, average over "
    f"clients. {LINES}",
    "accuracy_per_megabyte": "The same accuracy against what has crossed the network so far, up "
    "and down, all clients together; 1 megabyte is 10^6 bytes. A dashed horizontal line without "
    f"marks is the last round of a method that sends nothing. {LINES}",
    "client_spread": "Accuracy of each client in the last round. A mark is a client with one seed; "
    "its height in the row is the client's number, its shape the architecture. Shaded: the middle "
    "half of the clients; upright line: the median.",
    "accuracy_per_virtual_second": "The same accuracy against the time on a virtual clock, which "
    "counts steps and bytes, as each round ends; times are means over seeds. " + LINES,
    "disagreement_per_round": "How far apart peers are: the share of test examples on which a peer "
    "does not say what most say, and the root mean square distance of what a peer sends to the "
    f"mean (it grows as predictions get sure, and shrinks as peers agree). {LINES}",
    "topologies": "Who exchanges messages with whom. The number in each peer, and its colour, is "
    "its accuracy in the last round on the global test set, in per cent, of the first seed.",
    "students": "Test accuracy of the teacher, of the student with knowledge distillation, and of "
    "the same student trained on labels alone: mean, and sample standard deviation over seeds.",
    "accuracy_per_class": f"Accuracy on the test examples of each class. {GROUPS}",
    "accuracy_per_degree": "Accuracy on the test nodes with so many neighbours in the graph of the "
    f"evaluation; of whole graphs, on those with so many nodes. {GROUPS}",
    "reliability": "Accuracy against confidence (the largest probability) in 15 bins of it, all "
    "seeds together; grey: the diagonal, where confidence is honest. ECE: expected calibration "
    "error, mean over seeds. Bins of a few examples jump. The first six methods.",
    "accuracy_against_latency": "Test accuracy (mean, sample standard deviation over seeds) "
    "against the time that one answer takes: cold, so all neighbours that the network looks at are "
    "fetched within the time; a student's own inputs are there. Median of some calls in each run, "
    "beside whatever else the machine did then.",
    "embeddings": "The same test nodes (at most 600) in the last hidden states of each network, by "
    "their first two principal components; marks are true classes. The first seed of the first "
    "three methods.",
    "neighbourhood": "Nodes around a test node (at most 40), and the class that each network says; "
    "counted are nodes whose labels nobody knew. The first seed of the first three methods.",
    "small_graphs": "Some graphs of the test fold (of at most 40 nodes): their true class, and the "
    "one that each network of the first method says, first seed. Marks are labels of nodes.",
    "fidelity": "Agreement (in federations with what most clients say, in graphs with the teacher) "
    "and expected calibration error in 15 bins (0 is best): mean, and sample standard deviation "
    "over seeds.",
}
CSS = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #555; --line: #ccc; --paper: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #aaa; --line: #444; --paper: #161616 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper) }
h1, h2 { line-height: 1.2 } h2 { margin-top: 3rem; break-after: avoid }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right }
th { vertical-align: bottom; font-weight: 600 } td { white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.note, figcaption { color: var(--soft); font-size: .88rem; max-width: 46rem; margin: .4rem 0 }
figure { margin: 1.8rem 0; break-inside: avoid }
figure img { background: #fff; max-width: 100%; padding: .5rem; box-sizing: border-box }
dt { font-weight: 600; float: left; clear: left; margin-right: .6rem } dd { margin: 0 0 .2rem }
dd, p { overflow-wrap: anywhere }
@media print {
  :root { --ink: #000; --soft: #333; --line: #999; --paper: #fff }
  body { font-size: 10pt; margin: 0; padding: 0 } h2 { font-size: 13pt } tr { break-inside: avoid }
  .scroll { overflow: visible } table { font-size: 7pt }
  th, td { padding: 2pt 3pt; white-space: normal } }
"""


class Section(NamedTuple):
    """Results that can be compared, their table, and their figures by name."""

    results: Sequence[Result]
    table: Table
    figures: Mapping[str, plots.Figure]


def write_report(
    run_dirs: Sequence[Path], out: Path | None = None, select: str | None = None
) -> Path:
    """Write report.html, and beside it tables.md, tables.csv and figures/*.png.

    Args:
        run_dirs: run folders, or folders of run folders.
        out: the page, or the folder for it; by default the run folder, or what holds them all.
        select: a metric, such as accuracy_validation; of each method's settings only the one that
            is best by it is reported (`simulations.selection`).

    Returns:
        The page's path.

    Raises:
        ValueError: a folder is missing, or holds no finished run; nothing to select by.
    """
    folders = [Path(folder) for folder in run_dirs]
    runs = [run for folder in folders for run in _load(folder)]
    found = results(runs)
    if not found:
        where = ", ".join(map(str, folders)) or "no folder"
        raise ValueError(
            f"no finished run in {where}: expected a folder with run.json and a metrics.jsonl that "
            'ends with a "run" record; start one with `kdsim run`, or end one with `kdsim resume`'
        )
    page = Path(out) if out else Path(os.path.commonpath([f.resolve() for f in folders]))
    page = page if page.suffix == ".html" else page / "report.html"
    chosen = choices(found, select) if select else []
    if chosen:
        found = labelled(result for choice in chosen for result in choice.results)
    page.parent.mkdir(parents=True, exist_ok=True)
    parts = sections(found)
    page.write_text(html(parts, facts(runs, found), selection(chosen, select)), encoding="utf-8")
    write_tables([part.table for part in parts], page.parent)
    write_figures(parts, page.parent / "figures")
    return page


def sections(found: Sequence[Result]) -> list[Section]:
    """A section for each kind, data and protocol; a method looks the same in all of them."""
    look = plots.looks(result.label for result in found)
    groups = [list(group) for _, group in groupby(found, key=lambda result: result.group)]
    return [Section(group, table(group), _drawings(group, look)) for group in groups]


def _drawings(group: Sequence[Result], look: Mapping[str, plots.Look]) -> dict[str, plots.Figure]:
    rooms = (plots, plots_system, plots_graph, plots_small)
    return {name: figure for room in rooms for name, figure in room.drawings(group, look).items()}


def write_tables(found: Sequence[Table], folder: Path) -> None:
    """The tables as tables.md and tables.csv."""
    (folder / "tables.md").write_text(markdown(found), encoding="utf-8")
    (folder / "tables.csv").write_text(comma_separated(found), encoding="utf-8")


def write_figures(parts: Sequence[Section], folder: Path) -> None:
    """The figures as PNG, named after kind, data, protocol and what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        start = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(part.table[:3])).strip("-.")
        for name, figure in part.figures.items():
            (folder / f"{start[:120]}-{name}.png").write_bytes(plots.encode(figure, "png"))


def markdown(found: Sequence[Table]) -> str:
    """The tables as Markdown."""
    parts = []
    for one in found:
        lines = ["| " + " | ".join(map(_in_cell, row)) + " |" for row in (one.header, *one.body)]
        lines.insert(1, "| --- |" + " ---: |" * (len(one.header) - 1))
        title, notes = f"## {_in_cell(one.title)}", "\n\n".join(map(_in_cell, one.notes))
        parts.append("\n".join([title, "", *lines, "", notes]))
    return "\n\n".join(parts) + "\n"


def comma_separated(found: Sequence[Table]) -> str:
    """The tables as CSV: a line for each number, in shares and bytes, at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["kind", "data", "protocol", "method", "metric", "minus", *Quantity._fields])
    for one in found:
        for label, cells in one.rows.items():
            for column, cell in zip(one.columns, cells, strict=True):
                if cell is not None:
                    writer.writerow([*one[:3], label, column.metric, column.minus, *cell])
    return out.getvalue()


def facts(runs: Sequence[Any], found: Sequence[Result]) -> dict[str, list[str]]:
    """What the head of the page says: runs, seeds, versions, machine; each value once."""
    said: dict[str, list[str]] = {
        "runs": [f"{len(found)}"],
        "methods": sorted({result.label for result in found}),
        "data": sorted({result.data for result in found}),
        "seeds": [str(seed) for seed in sorted({result.seed for result in found})],
    }
    for run in runs:
        head = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
        for name, value in head.items():
            if name not in ("experiment", "hash", "seed"):
                said.setdefault(name, []).append(_phrase(value))
        if not run.complete:
            said.setdefault("left out, not finished", []).append(str(run.path))
    repeated = sum(r.get("record") == "run" for run in runs for r in run.records) - len(found)
    if repeated:
        said["repeated"] = [f"{repeated} of the same experiment and seed, counted once"]
    return {name: list(dict.fromkeys(values)) for name, values in said.items()}


def html(
    parts: Sequence[Section], head: Mapping[str, Sequence[str]], chosen: Iterable[str] = ()
) -> str:
    """The page; `chosen` are lines about how settings were."""
    body = ["<h1>kdsim report</h1>", "<dl>"]
    body += [f"<dt>{escape(k)}</dt><dd>{escape('; '.join(v))}</dd>" for k, v in head.items()]
    body += ["</dl>", *(line for part in parts for line in _section(part))]
    body += [*chosen, "<h2>Settings</h2>", *(line for part in parts for line in _settings(part))]
    start = '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
    start += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    start += f"<title>kdsim report</title><style>{CSS}</style></head>\n<body>\n"
    return start + "\n".join(body) + "\n</body>\n</html>\n"


def selection(chosen: Sequence[Choice], metric: str | None) -> Iterable[str]:
    """Every setting that was tried, with what it was chosen by; nothing where none was chosen."""
    if not chosen:
        return
    yield "<h2>Selected settings</h2>"
    yield (
        f'<p class="note">Above is, of each method, the setting with the best mean {metric} over '
        "the seeds that all of its settings have; here are all of them.</p>"
    )
    yield '<div class="scroll"><table><thead>'
    yield _row(("Setting", "Protocol", f"Mean {metric}", "Reported"), "th") + "</thead><tbody>"
    for choice in chosen:
        for label, score in choice.scores.items():
            mark = "yes" if label == choice.chosen else ""
            yield _row((label, choice.results[0].protocol, f"{score:.3f}", mark), "td")
    yield "</tbody></table></div>"


def _section(part: Section) -> Iterable[str]:
    yield f"<h2>{escape(part.table.title)}</h2>"
    yield '<div class="scroll"><table>'
    yield "<thead>" + _row(part.table.header, "th") + "</thead><tbody>"
    yield from (_row(row, "td") for row in part.table.body)
    yield "</tbody></table></div>"
    yield from (f'<p class="note">{escape(note)}</p>' for note in part.table.notes)
    for name, figure in part.figures.items():
        caption = escape(f"{CAPTIONS[name]} {_seeds(part.table)}")
        data = b64encode(plots.encode(figure, "svg")).decode()
        picture = f'<img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
        yield f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _seeds(one: Table) -> str:
    """How many seeds stand behind the figures of a section."""
    counts = set(one.seeds.values())
    if len(counts) == 1:
        n = counts.pop()
        return "One seed." if n == 1 else f"{n} seeds for each method."
    return "Seeds: " + ", ".join(f"{label} {n}" for label, n in one.seeds.items()) + "."


def _settings(part: Section) -> Iterable[str]:
    """Settings that all runs of a section share, then what is each method's own."""
    shared = set.intersection(*(set(result.settings.items()) for result in part.results))
    lines = {part.table.title: shared}
    for result in part.results:
        lines[f"… {result.label}"] = result.settings.items() - shared
    for name, pairs in lines.items():
        told = ("algorithm", *Result._fields)
        text = "; ".join(f"{key} = {value}" for key, value in sorted(pairs) if key not in told)
        if text:
            yield f'<p class="note"><b>{escape(name)}</b>: {escape(text)}</p>'


def _phrase(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_phrase(item)}" for key, item in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def _in_cell(text: str) -> str:
    """Text that cannot end a Markdown cell or start a tag."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _load(folder: Path) -> Sequence[Any]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give a run folder, as `kdsim run --out` wrote it")
    return store.load(folder)
