"""The page of a report: what came out, in words; tables; figures; the settings; what was run."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence

from simulations.reporting import outcomes
from simulations.reporting.figures import common
from simulations.reporting.markup import Markup, element, joined, table
from simulations.reporting.parts import Drawn, Recipe, Report, Section
from simulations.reporting.resolved_settings import Setting, compared
from simulations.results.columns import PRIMARY, primary
from simulations.results.model_selection import Choice
from simulations.results.tables import Table
from simulations.survey.claims import findings, verdict

LINES = (
    "Line: mean over seeds; band: from the smallest to the largest seed. Methods are in the order "
    "of the last round; in small panels, the others are grey."
)
GROUPS = (
    "Mean, and sample standard deviation over seeds; below each group, how many test examples a "
    "run has in it. At most six methods."
)
CAPTIONS = {
    "accuracy_per_round": "Accuracy on the global test set after each round, average over "
    f"clients. {LINES}",
    "accuracy_per_megabyte": "The same accuracy against what has crossed the network so far, up "
    "and down, all clients together; 1 megabyte is 10^6 bytes. A dashed horizontal line without "
    f"marks is the last round of a method that sends nothing. {LINES}",
    "privacy_against_accuracy": "Accuracy on the global test set in the last round against the "
    "epsilon that was spent, of the client of whom most was released, at the delta in the title. A "
    "panel for each unit: epsilons of two units, or relations, say nothing together. Marks are "
    "means, bars 95% intervals over seeds, of three seeds or more; the dashed line, with its "
    "interval, is the same method without noise.",
    "client_spread": "Accuracy of each client in the last round. A mark is a client with one seed; "
    "its height in the row is the client's number, its shape the architecture (where there "
    "are no more than eleven). Shaded: the middle half of the clients; upright line: the median.",
    "accuracy_per_virtual_second": "The same accuracy against the time on a virtual clock, which "
    "counts steps and bytes, as each round ends; times are means over seeds. " + LINES,
    "disagreement_per_round": "How far apart peers are: the share of test examples on which a peer "
    f"does not say what most say. {LINES}",
    "consensus_distance_per_round": "The root mean square distance of what a peer sends to the "
    f"mean (it grows as predictions get sure, and shrinks as peers agree). {LINES}",
    "paired": "The claims and controls that compare, at most six: a row for each seed, with both "
    "numbers of it. A full blue line: the filled mark is on the claimed side; a dotted orange one: "
    "it is not.",
    "topologies": "Who exchanges messages with whom. The number in each peer, and its colour, is "
    "its accuracy in the last round on the global test set, in per cent, of the first seed.",
    "graph_partition": "Who holds which node: those of a client, and the edges among them, are in "
    "its colour; edges between clients, which nobody has, are grey. Of the first seed.",
    "labels_of_clients": "How many nodes, or whole graphs, of each class each client trains "
    "on, in the first seed.",
    "own_against_all": "Accuracy on everybody's test nodes, or whole graphs, against that on a "
    "client's own, a mean over clients in the last round; a mark for each seed. On the grey line "
    "they are equal.",
    "students": "Test accuracy (of links, AUC) of the teacher, of the student with knowledge "
    "distillation, and of the same student trained on labels alone: mean, and sample standard "
    "deviation over seeds.",
    "accuracy_per_class": f"Accuracy on the test examples of each class. {GROUPS}",
    "accuracy_per_degree": "Accuracy on the test nodes with so many neighbours in the graph of the "
    f"evaluation; of whole graphs, on those with so many nodes. {GROUPS}",
    "reliability": "Accuracy against confidence (the largest probability) in 15 bins of it, all "
    "seeds together; grey: the diagonal, where confidence is honest. ECE: expected calibration "
    "error, mean over seeds. Bins of a few examples jump. At most six methods.",
    "accuracy_against_latency": "Test accuracy (mean, sample standard deviation over seeds) "
    "against the time that one answer takes: cold, so all neighbours that the network looks at are "
    "fetched within the time; a student's own inputs are there. Median of some calls in each run, "
    "beside whatever else the machine did then.",
    "embeddings": "The same test nodes (at most 600) in the last hidden states of each network, by "
    "their first two principal components; marks are true classes. The first seed of at most "
    "three methods.",
    "neighbourhood": "Nodes around a test node (at most 40), and the class that each network says; "
    "counted are nodes whose labels nobody knew. The first seed of at most three methods.",
    "small_graphs": "Some graphs of the test fold (of at most 40 nodes): their true class, and the "
    "one that each network of the first method says, first seed. Marks are labels of nodes.",
    "fidelity": "Agreement (in federations with what most clients say, in graphs with the teacher) "
    "and expected calibration error in 15 bins (0 is best): mean, and sample standard deviation "
    "over seeds.",
}
CSS = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #555; --line: #ccc; --paper: #fff;
  --note: #fff4d6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #b0b0b0; --line: #444; --paper: #161616; --note: #3a3016 } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere }
h1, h2, h3 { line-height: 1.2; break-after: avoid } h2 { margin-top: 3rem }
p { max-width: 48rem } .lead { font-size: 1.06rem }
.warning { background: var(--note); padding: .5rem .8rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  overflow-wrap: normal }
th { vertical-align: bottom; font-weight: 600 } td { white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.settings td, .settings th { text-align: left; white-space: normal; vertical-align: top }
.note, figcaption { color: var(--soft); font-size: .88rem; max-width: 48rem; margin: .4rem 0 }
figure { margin: 1.8rem 0; break-inside: avoid } img { display: block; width: 100%; height: auto }
dt { font-weight: 600; float: left; clear: left; margin-right: .6rem } dd { margin: 0 0 .2rem }
@media screen and (max-width: 45rem) {
  body { margin: 1rem auto } img { max-width: 30rem } td:first-child { white-space: normal } }
@media print {
  :root { --ink: #000; --soft: #333; --line: #999; --paper: #fff; --note: #fff }
  body { font-size: 10pt; margin: 0; padding: 0 } h2 { font-size: 13pt } tr { break-inside: avoid }
  .scroll { overflow: visible } table { font-size: 7pt }
  th, td { padding: 2pt 3pt; white-space: normal } }
"""
NARROW = "screen and (max-width: 45rem)"
WARNINGS = ("Diverged:", "Note:", "Rejected:")
LISTED = 6  # methods, at the most, that a line of the settings names


def _caption(name: str, metric: str) -> str:
    """What a figure shows: of another metric what it is of accuracy, with that in its place."""
    said = CAPTIONS[name.replace(metric, "accuracy")]
    if metric == "accuracy":
        return said
    title = PRIMARY[metric][0]
    inside = title if title.isupper() else title.lower()
    said = said.replace(", in per cent", "") if not PRIMARY[metric][1] else said
    return said.replace("Accuracy", title).replace("accuracy", inside)


def html(found: Report) -> str:
    """The page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", "kdsim report"),
        element("style", Markup(CSS)),
    )
    parts = [
        element("h1", "kdsim report"),
        *_lead(found),
        *(line for one in found.recipes for line in _recipe(one)),
        *(line for i, part in enumerate(found.sections, 1) for line in _section(i, part)),
        *_selection(found),
        element("h2", "Settings"),
        element("p", SETTINGS, class_="note"),
        *(line for i, part in enumerate(found.sections, 1) for line in _settings(i, part)),
        element("h2", "What was run"),
        _facts(found.facts),
    ]
    body = element("body", Markup("\n"), *(Markup(f"{part}\n") for part in parts))
    return f"<!doctype html>\n{element('html', head, Markup(chr(10)), body, lang='en')}\n"


SETTINGS = (
    "The value that each run used, also where none was given; settings without effect here are "
    "left out, as are seeds and machines. Those that differ come first."
)


def _lead(found: Report) -> Iterable[Markup]:
    """What came out, in words, and what a reader has to know before believing it."""
    judged = {one.name for one in found.recipes}
    outcome = [("", outcomes.of_recipe(one.said, one.by_seed)) for one in found.recipes]
    for part in found.sections:
        kind, _, protocol = part.results[0].group
        if kind != "survey":
            outcome.append((part.table.title, outcomes.of_section(part.table, part.results)))
        elif protocol not in judged:
            outcome.append((part.table.title, OTHER))
    for title, text in outcome:
        name = (element("b", f"{title}: "),) if title and len(outcome) > 1 else ()
        if text:
            yield element("p", *name, text, class_="lead")
    if found.left_out:
        text = f"Left out, as not finished: {'; '.join(found.left_out)}."
        yield element("p", text, class_="warning")
    if found.select:
        text = f"Of each method only the setting with the best mean {found.select} is reported."
        yield element("p", text, class_="note")


OTHER = "these are not the settings of the recipe's file, so what it claims is not judged."


def _recipe(one: Recipe) -> Iterable[Markup]:
    """What a recipe is about, what it claims, and what came out."""
    said = one.said
    yield element("h2", f"Recipe: {said.term}")
    yield element("p", f"{said.what} ({said.source}.)" if said.source else said.what)
    yield element("p", "Verdict: ", element("b", verdict(said, one.by_seed)), ".")
    for name, texts in (("Claims", said.claims), ("Controls", said.controls)):
        if texts:
            lines = (outcomes.claimed(found) for found in findings(texts, one.by_seed))
            yield element("p", f"{name}:")
            yield element("ul", *(element("li", _capital(line)) for line in lines))
    if said.why:
        yield element("p", f"The recipe's own note, on the runs of docs/survey.md: {said.why}")
    n = len(one.by_seed)
    yield from _figures(one.figures, "One seed." if n == 1 else f"{n} seeds.", "accuracy")


def _section(number: int, part: Section) -> Iterable[Markup]:
    yield element("h2", f"{number}. {part.table.title}")
    yield table(part.table.header, part.table.body)
    for note in part.table.notes:
        kind = "warning" if note.startswith(WARNINGS) else "note"
        yield element("p", note, class_=kind)
    if len(part.table.rows) > common.APART:
        yield element("p", MANY.format(len(part.table.rows)), class_="note")
    metric = primary(part.results[0].metrics) if part.table.kind == "fed" else "accuracy"
    yield from _figures(part.figures, _seeds(part.table), metric)


MANY = (
    "Figures with a row for each of the {} settings are left out; --select accuracy_validation "
    "reports one setting of each method, where validation examples were set apart."
)


def _figures(figures: Mapping[str, Drawn], seeds: str, metric: str) -> Iterable[Markup]:
    for name, figure in figures.items():
        caption = f"{_caption(name, metric)} {seeds}"
        picture = element(
            "picture",
            element("source", media=NARROW, srcset=_data(figure.narrow)),
            element("img", alt=caption, src=_data(figure.wide)),
        )
        yield element("figure", picture, element("figcaption", caption))


def _data(figure: common.Figure) -> str:
    return f"data:image/svg+xml;base64,{b64encode(common.encode(figure, 'svg')).decode()}"


def _seeds(one: Table) -> str:
    """How many seeds stand behind the figures of a section."""
    counts = set(one.seeds.values())
    if len(counts) == 1:
        n = counts.pop()
        return "One seed." if n == 1 else f"{n} seeds for each method."
    return "Seeds: " + ", ".join(f"{label} {n}" for label, n in one.seeds.items()) + "."


def _selection(found: Report) -> Iterable[Markup]:
    """Every setting that was tried, with what it was chosen by; nothing where none was chosen."""
    if not found.choices:
        return
    yield element("h2", "Selected settings")
    text = (
        f"Above is, of each method, the setting with the best mean {found.select} over the seeds "
        "that all of its settings have; here are all of them."
    )
    yield element("p", text, class_="note")
    header = ("Setting", "Protocol", f"Mean {found.select}", "Reported")
    yield table(header, (cells for choice in found.choices for cells in _scores(choice)))


def _scores(choice: Choice) -> Iterable[Sequence[str]]:
    for label, score in choice.scores.items():
        mark = "yes" if label == choice.chosen else ""
        yield label, choice.results[0].protocol, f"{score:.3f}", mark


def _settings(number: int, part: Section) -> Iterable[Markup]:
    """A table of settings: value, and whose it is."""
    yield element("h3", f"{number}. {part.table.title}")
    rows = [(s.name, s.value, _whose(s), "yes" * s.varied) for s in compared(part.results)]
    header = ("Setting", "Value", "Used by", "Differs")
    yield element("div", table(header, rows), class_="settings")


def _whose(setting: Setting) -> str:
    if not setting.labels:
        return "all"
    names = ", ".join(setting.labels[:LISTED])
    more = len(setting.labels) - LISTED
    return f"{names} and {more} more" if more > 0 else names


def _facts(facts: Mapping[str, Sequence[str]]) -> Markup:
    lines = (
        joined((element("dt", name), element("dd", "; ".join(values))))
        for name, values in facts.items()
    )
    return element("dl", *lines)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
