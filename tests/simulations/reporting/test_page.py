"""No text that a run holds becomes markup; the page says what its records say."""

import base64
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from simulations.config import experiments, identity
from simulations.reporting import parts
from simulations.reporting.exports import comma_separated
from simulations.reporting.markup import Markup, element, table
from simulations.reporting.page import html
from simulations.reporting.parts import gather
from simulations.reporting.report import write_report
from simulations.results import run_folder
from simulations.results.tables import tables
from simulations.survey.recipes import get
from tests.simulations.reporting.test_report import FED, fed_run, graph_run, write_run

BAD = "\"'><script>alert(1)</script><img src=x onerror=alert(2)><!-- & </td></style></title>"


class Shape(HTMLParser):
    """The elements and attributes of a page, in order, and the text in it."""

    def __init__(self, text):
        super().__init__()
        self.found, self.sources, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, [name for name, _ in attrs]))
        self.sources += [value for name, value in attrs if name in ("src", "srcset")]

    def handle_endtag(self, tag):
        self.found.append(tag)

    def handle_comment(self, data):
        self.found.append(("comment", data))

    def handle_data(self, data):
        self.text += data


def runs_of(folder, text):
    """Runs in which `text` is in every field that a user, or somebody else's run, can fill."""
    header = FED | {"data": f"data {text}", "protocol": f"protocol {text}"}
    settings = {f"key {text}": f"value {text}", "models": [f"model {text}"], "corrupt": text}
    for i, method in enumerate(("local", f"one {text}", f"two {text}")):
        more = {"settings": settings, "versions": f"version {text}", "header": header}
        path = folder / f"run {i}"
        fed_run(path, method, 0, 0.5, rejected={text: f"reason {text}"}, **more)
        (own,) = path.iterdir()
        lines = [json.loads(line) for line in (own / "metrics.jsonl").read_text().splitlines()]
        for record in lines[:-1]:
            record["clients"]["group"] = [f"group {text}", "cnn"]
            record |= {"notes": [f"note {text}"], "diverged": f"why {text}"}
        lines[-1]["metrics"][f"metric {text}"] = i / 10
        lines[-1]["topology"] = {"name": text, "links": [[0, 1]], "positions": [[0, 0], [1, 1]]}
        (own / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        head = json.loads((own / "run.json").read_text())
        head |= {f"fact {text}": text, "command": text, "device": text}
        (own / "run.json").write_text(json.dumps(head))
    harmless = text.replace("/", "")
    write_run(folder / f"cut {harmless}", FED, "fd", 1, {}, [{"record": "round", "round": 1}])
    graph = {"kind": "graph", "data": f"graph {text}", "protocol": text}
    graph_run(folder / "graph", f"method {harmless}", 0, 0.8, 0.7, graph)
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The same page twice: with words, and with markup in their place."""
    found = []
    for text in ("words", BAD):
        folder = runs_of(tmp_path_factory.mktemp("runs"), text)
        found.append(Shape(html(gather(run_folder.load(folder), select=f"metric {text}"))))
    return found


def test_data_add_no_element_and_no_attribute(pages):
    plain, hostile = pages
    assert hostile.found == plain.found
    assert {tag[0] for tag in hostile.found if isinstance(tag, tuple)} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "b", "div"),
        *("table", "thead", "tbody", "tr", "th", "td", "figure", "picture", "source", "img"),
        *("figcaption", "dl", "dt", "dd", "ul", "li"),
    }


def test_data_are_shown_as_they_are(pages):
    _, hostile = pages
    shown = ("data", "protocol", "key", "value", "model", "reason", "note", "why", "fact", "metric")
    for what in shown:
        assert f"{what} {BAD}" in hostile.text, what


def test_pictures_hold_data_as_drawings_alone(pages):
    for source in pages[1].sources:
        start, _, data = source.partition(",")
        assert start == "data:image/svg+xml;base64"
        picture = ElementTree.fromstring(base64.b64decode(data))
        tags = {node.tag.rpartition("}")[2] for node in picture.iter()}
        assert not tags & {"script", "foreignObject", "a", "iframe", "audio", "video"}
        names = {name for node in picture.iter() for name in node.attrib}
        assert not any(name.startswith("on") for name in names)


def test_an_element_escapes_its_children_and_attributes():
    assert element("p", "a<b>&", element("b", '"'), class_='"x') == (
        '<p class="&quot;x">a&lt;b&gt;&amp;<b>&quot;</b></p>'
    )
    assert element("p", Markup("<hr>")) == "<p><hr></p>"
    # Controls, and halves of pairs, that no file in UTF-8 can hold.
    assert element("p", "a\x00\x1b\ud800b\tc") == "<p>a\ufffd\ufffd\ufffdb\tc</p>"
    assert "<th>a&lt;</th>" in table(["a<"], [["b"]])


class Table(HTMLParser):
    """The rows of all tables of a page."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def recipe_run(folder, seed, numbers, **changed):
    """A run of the recipe `compression`, with numbers of our own."""
    experiment = (
        identity.settings(experiments.SurveyExperiment(get("compression")(), seed)) | changed
    )
    header = {"kind": "survey", "data": "digits", "protocol": "compression"}
    write_run(folder / f"{seed}", header, "compression", seed, numbers)
    head = json.loads((folder / f"{seed}" / "run.json").read_text()) | {"experiment": experiment}
    (folder / f"{seed}" / "run.json").write_text(json.dumps(head))


@pytest.fixture
def no_figures(monkeypatch):
    """They take seconds, and are of no interest to those who ask for this."""
    monkeypatch.setattr(parts, "ROOMS", ())


def test_a_recipe_has_its_claim_verdict_and_figure(tmp_path):
    # Differences 10, 12, 8: mean 10, deviation 2; 4.3027 x 2 / sqrt(3) = 4.97.
    for seed, (alone, taught) in enumerate([(0.70, 0.80), (0.72, 0.84), (0.74, 0.82)]):
        numbers = {"accuracy": taught, "accuracy_baseline": alone, "accuracy_teacher": 0.9}
        recipe_run(tmp_path, seed, numbers)
    text = write_report([tmp_path]).read_text()
    told = (
        "ccuracy is 10.0 points above accuracy baseline over 3 seeds (95% interval +5.0 to +15.0), "
        "in the claimed direction in 3 of 3; the claim (accuracy - accuracy_baseline &gt;= 0.03 in "
        "0.9) holds."
    )
    assert f'<p class="lead">Knowledge compression: works. a{told}</p>' in text
    assert f"<li>A{told}</li>" in text
    assert "Verdict: <b>works</b>." in text
    assert [path.name for path in (tmp_path / "figures").iterdir()] == [
        "recipe-compression-paired.png"
    ]
    assert "repeated" not in text
    assert "<dt>runs</dt><dd>3</dd>" in text  # of three arms each


@pytest.mark.usefixtures("no_figures")
def test_a_recipe_with_other_settings_is_not_judged(tmp_path):
    recipe_run(tmp_path, 0, {"accuracy": 0.9, "accuracy_baseline": 0.5}, labels=17)
    text = html(gather(run_folder.load(tmp_path)))
    assert "not the settings of the recipe" in text
    assert "Verdict" not in text


@pytest.mark.usefixtures("no_figures")
def test_a_repeated_recipe_counts_once_whatever_its_arms(tmp_path):
    for folder in ("a", "b"):
        recipe_run(tmp_path / folder, 0, {"accuracy": 0.9, "accuracy_baseline": 0.5})
    text = html(gather(run_folder.load(tmp_path)))
    assert "<dt>runs</dt><dd>1</dd>" in text
    assert "<dt>repeated</dt><dd>1 of the same experiment and seed, counted once</dd>" in text


@pytest.mark.usefixtures("no_figures")
def test_what_was_not_selected_is_not_called_repeated(tmp_path):
    for strength in (1, 2):
        more = {"metrics": {"accuracy_validation": 0.1 * strength}}
        settings = {"settings": {"strength": strength}}
        fed_run(tmp_path / str(strength), "fd", 0, 0.5, **more, **settings)
    text = html(gather(run_folder.load(tmp_path), select="accuracy_validation"))
    assert "repeated" not in text
    assert "<dt>reported</dt><dd>1, of the selected settings</dd>" in text


@pytest.mark.usefixtures("no_figures")
def test_settings_are_those_that_were_used(tmp_path):
    null = {"train": None, "val": None, "hidden": None, "lr": None, "teacher_hidden": None}
    graph_run(tmp_path, "glnn", 0, 0.8, 0.7)
    head = json.loads((tmp_path / "glnn-0" / "run.json").read_text())
    given = {"kind": "graph", "method": "glnn", "seed": 0, "teacher": "gcn", **null}
    head["experiment"] = given
    (tmp_path / "glnn-0" / "run.json").write_text(json.dumps(head))
    text = html(gather(run_folder.load(tmp_path)))
    rows = {row[0]: row[1:] for row in Table(text).rows}
    # 20 and 30 nodes of each class; GLNN's MLP on any data; the table of GCN teachers.
    assert rows["train"] == ["20", "all", ""]
    assert rows["val"] == ["30", "all", ""]
    assert rows["hidden"] == ["128", "all", ""]
    assert rows["lr"] == ["0.01", "all", ""]
    assert rows["teacher_hidden"] == ["64", "all", ""]
    assert "null" not in text


@pytest.mark.usefixtures("no_figures")
def test_settings_that_differ_come_first_and_are_marked(tmp_path):
    shared = {"rounds": 2, "partition": "iid", "alpha": 0.3, "public": 9, "public_size": None}
    for method, rate in (("local", 0.1), ("fd", 0.2), ("dsfl", 0.2)):
        fed_run(tmp_path, method, 0, 0.5, settings={"local.learning_rate": rate} | shared)
    found = Table(html(gather(run_folder.load(tmp_path)))).rows
    rows = found[found.index(["Setting", "Value", "Used by", "Differs"]) + 1 :]
    assert rows[:2] == [
        ["local.learning_rate", "0.1", "local", "yes"],
        ["local.learning_rate", "0.2", "dsfl, fd", "yes"],
    ]
    assert ["rounds", "2", "all", ""] in rows
    assert ["public_size", "9, all of them", "all", ""] in rows
    assert not any(row[0] == "alpha" for row in rows)  # equal parts have no strength


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("partition", ["dirichlet", "dirichlet-balanced", "quantity", "auto"])
def test_alpha_is_told_of_every_partition_that_may_go_by_it(tmp_path, partition):
    fed_run(tmp_path, "local", 0, 0.5, settings={"partition": partition, "alpha": 0.25})
    assert ["alpha", "0.25", "all", ""] in Table(html(gather(run_folder.load(tmp_path)))).rows


@pytest.mark.usefixtures("no_figures")
def test_settings_of_examples_are_not_told_of_clients_that_hold_a_graph(tmp_path):
    given = {"algorithm": "fedmd", "data": "digits-knn", "private": 500}
    given |= {"public": 578, "public_size": None, "test": 0}
    fed_run(tmp_path, "fedmd", 0, 0.5, settings=given)
    rows = Table(html(gather(run_folder.load(tmp_path)))).rows
    assert ["public_size", "all of them", "all", ""] in rows
    assert not {row[0] for row in rows} & {"private", "public", "test"}


@pytest.mark.usefixtures("no_figures")
def test_a_run_that_diverged_is_said_everywhere(tmp_path):
    for seed in (0, 1):
        fed_run(tmp_path, "local", seed, 0.5)
        fed_run(tmp_path, "fedavg", seed, 0.0)
    path = tmp_path / "fedavg-1" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"rejected"', '"diverged": "too fast", "rejected"'))
    page = write_report([tmp_path])
    shape = Shape(page.read_text())
    assert "fedavg diverged in 1 of 2 runs (seed 1)" in shape.text
    assert "Diverged: fedavg, seed 1: too fast." in shape.text
    (one,) = tables(run_folder.load(tmp_path))
    row = next(row for row in one.body if row[0] == "fedavg")
    assert row[one.header.index("Diverged (share of seeds)")].startswith("0.5")
    assert row[one.header.index("Accuracy, global test set (%)")].startswith("0.0")
    assert "Diverged: fedavg, seed 1: too fast." in (tmp_path / "tables.md").read_text()
    assert re.search(r"fedavg,diverged,,0\.5,", comma_separated([one]))


@pytest.mark.usefixtures("no_figures")
def test_a_run_that_says_nothing_of_it_has_not_diverged(tmp_path):
    fed_run(tmp_path, "fedavg", 0, 0.5)
    assert "iverged" not in html(gather(run_folder.load(tmp_path)))


@pytest.mark.usefixtures("no_figures")
def test_an_error_names_the_file_and_takes_nothing_away(tmp_path):
    fed_run(tmp_path / "runs", "fedavg", 0, 0.5)
    (tmp_path / "out").write_text("mine")  # a file where a folder belongs
    with pytest.raises(OSError, match=r"out.page"):
        write_report([tmp_path / "runs"], tmp_path / "out" / "page")
    assert (tmp_path / "out").read_text() == "mine"
