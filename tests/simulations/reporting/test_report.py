import base64
import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import scipy.stats
from safetensors.numpy import save_file

from simulations.reporting.exports import comma_separated, markdown
from simulations.reporting.page import html
from simulations.reporting.parts import facts, gather
from simulations.reporting.report import write_report
from simulations.results import run_folder
from simulations.results.columns import figure
from simulations.results.run_results import results, rounds_to
from simulations.results.tables import tables
from tests.simulations.reporting.figures.test_graph import kept

REPOSITORY = Path(__file__).resolve().parents[3]
FED = {"kind": "fed", "data": "digits", "protocol": "2 clients, iid, 2 rounds"}
GRAPH = {"kind": "graph", "data": "digits-knn", "protocol": "transductive"}


def write_run(folder, header, method, seed, metrics, curve=(), settings=None, versions="2.13.0"):
    """A run folder as `simulations.results.run_folder` writes it."""
    folder.mkdir(parents=True)
    experiment = {"kind": header["kind"], "algorithm": method, "seed": seed, **(settings or {})}
    head = {
        "experiment": experiment,
        "hash": "0a1b",
        "seed": seed,
        "versions": {"python": "3.11.9", "torch": versions},
        "device": "cpu",
        "threads": 1,
        "command": "kdsim run x.toml",
    }
    end = {"record": "run", **header, "method": method, "seed": seed, "metrics": metrics}
    lines = [json.dumps(record) for record in (*curve, *([end] if metrics else []))]
    (folder / "run.json").write_text(json.dumps(head))
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))


def fed_run(
    folder, method, seed, accuracy, each=1000, rejected=None, header=FED, metrics=None, **more
):
    curve = [
        {
            "record": "round",
            "round": i,
            "accuracy": accuracy * i / 2,
            "bytes_up": each * i,
            "bytes_down": each * i,
            "rejected": rejected or {},
            "clients": {
                "accuracy": [accuracy * i / 2, 0.5],
                "accuracy_local": [accuracy, 0.9],
                "group": ["mlp-8", "cnn"],
            },
        }
        for i in (1, 2)
    ]
    metrics = {
        "accuracy": accuracy,
        "accuracy_local": accuracy,
        "agreement": 0.75,
        "calibration_error": 0.125,
        "bytes_up": 2 * each,
        "bytes_down": 2 * each,
    } | (metrics or {})
    write_run(
        folder / f"{method}-{seed}".replace("/", ""), header, method, seed, metrics, curve, **more
    )


def graph_run(folder, method, seed, student, baseline, header=GRAPH, **more):
    metrics = {"accuracy": student, "accuracy_baseline": baseline, "accuracy_teacher": 0.9}
    metrics |= {"accuracy_tran": student, "agreement": 0.9, "calibration_error": 0.05, **more}
    epoch = {"record": "epoch", "phase": "student", "epoch": 1, "loss": 1.0}
    write_run(folder / f"{method}-{seed}", header, method, seed, metrics, [epoch])


def render(folder):
    """The page alone, without the files beside it."""
    return html(gather(run_folder.load(folder)))


def cells(table, label):
    row = next(row for row in table.body if row[0] == label)
    return dict(zip(table.header, row, strict=True))


def fed_runs(folder):
    """Local: 70, 72, 74; fedmd: 80, 84, 82, so 10, 12 and 8 points more."""
    for seed, (alone, taught) in enumerate([(0.70, 0.80), (0.72, 0.84), (0.74, 0.82)]):
        fed_run(folder, "local", seed, alone, each=0)
        fed_run(folder, "fedmd", seed, taught, each=600_000)
    return folder


@pytest.fixture
def fed(tmp_path):
    return fed_runs(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of two kinds of runs, one of them unfinished, one with another torch."""
    folder = fed_runs(tmp_path_factory.mktemp("runs"))
    fed_run(folder / "other", "fd", 0, 0.5, versions="2.12.1")
    write_run(folder / "cut", FED, "fd", 1, {}, [{"record": "round", "round": 1}])
    graph_run(folder, "glnn", 0, 0.8, 0.7)
    return write_report([folder])


class TestTables:
    def test_mean_and_sample_deviation(self, fed):
        (table,) = tables(run_folder.load(fed))
        assert [row[0] for row in table.body] == ["local", "fedmd"]
        assert cells(table, "local")["Accuracy, global test set (%)"] == "72.0 ± 2.0"
        assert cells(table, "fedmd")["Accuracy, global test set (%)"] == "82.0 ± 2.0"
        assert cells(table, "fedmd")["Seeds"] == "3"

    def test_the_difference_is_paired_with_a_t_interval(self, fed):
        # Differences 10, 12, 8: mean 10, deviation 2; 4.3027 x 2 / sqrt(3) = 4.97.
        (table,) = tables(run_folder.load(fed))
        assert cells(table, "fedmd")["the same, minus local (points)"] == "+10.0 (+5.0 to +15.0)"
        assert cells(table, "local")["the same, minus local (points)"] == "–"
        place = next(i for i, column in enumerate(table.columns) if column.minus)
        told = table.rows["fedmd"][place]
        expected = scipy.stats.ttest_1samp([0.10, 0.12, 0.08], 0).confidence_interval()
        assert (told.low, told.high) == pytest.approx((expected.low, expected.high))

    def test_only_common_seeds_are_paired(self, fed):
        fed_run(fed, "fedmd", 7, 0.10)
        (table,) = tables(run_folder.load(fed))
        assert cells(table, "fedmd")["Seeds"] == "4"
        difference = cells(table, "fedmd")["the same, minus local (points)"]
        assert difference == "+10.0 (+5.0 to +15.0) (n = 3)"

    def test_one_seed_has_no_deviation(self, tmp_path):
        fed_run(tmp_path, "local", 0, 0.5, each=0)
        fed_run(tmp_path, "fd", 0, 0.6, each=123)
        (table,) = tables(run_folder.load(tmp_path))
        row = cells(table, "fd")
        assert row["Accuracy, global test set (%)"] == "60.0"
        assert row["the same, minus local (points)"] == "+10.0"
        assert row["Sent up"] == "246 B"

    def test_rounds_to_nine_tenths_of_the_best(self, fed):
        # Best 0.8 in round 4, nine tenths of which are 0.72: round 3, and not the last, which is
        # worse again. Rounds without an evaluation, or with a model that diverged, do not count.
        accuracies = {1: 0.5, 3: 0.75, 4: 0.8, 5: None, 6: 0.7}
        curve = [{"record": "round", "round": i, "accuracy": a} for i, a in accuracies.items()]
        curve.insert(1, {"record": "round", "round": 2})
        assert rounds_to(0.9, curve) == 3
        assert rounds_to(1.0, curve) == 4
        assert rounds_to(0.9, []) is None
        assert rounds_to(0.9, [{"record": "epoch", "epoch": 1, "accuracy": 0.5}]) is None
        (table,) = tables(run_folder.load(fed))
        assert cells(table, "fedmd")["Rounds to 90% of the best"] == "2.0 ± 0.0"

    def test_the_median_and_the_least_client_stand_beside_the_mean(self, tmp_path):
        # The second of two clients always has 50 %; the first 80 and 30 in the last round.
        for seed, first in enumerate((0.8, 0.3)):
            fed_run(tmp_path, "fd", seed, first)
        (table,) = tables(run_folder.load(tmp_path))
        row = cells(table, "fd")
        assert row["Accuracy, median client (%)"] == "52.5 ± 17.7"  # of 65 and 40
        assert row["Accuracy, least client (%)"] == "40.0 ± 14.1"  # of 50 and 30
        assert any("Median and least client" in note for note in table.notes)

    def test_a_client_without_a_number_leaves_the_least_open(self, tmp_path):
        fed_run(tmp_path, "fd", 0, 0.8)
        path = tmp_path / "fd-0" / "metrics.jsonl"
        path.write_text(path.read_text().replace("[0.8, 0.5]", "[null, 0.5]"))
        (table,) = tables(run_folder.load(tmp_path))
        assert "[null, 0.5]" in path.read_text()
        assert "Accuracy, least client (%)" not in table.header

    def test_what_a_run_counted_itself_is_taken(self, tmp_path):
        fed_run(tmp_path, "fd", 0, 0.8, metrics={"accuracy_least": 0.25})
        (table,) = tables(run_folder.load(tmp_path))
        assert cells(table, "fd")["Accuracy, least client (%)"] == "25.0"

    def test_what_was_run_is_told_in_words(self, tmp_path):
        fed_run(tmp_path, "fd", 3, 0.8)
        path = tmp_path / "fd-3" / "run.json"
        head = json.loads(path.read_text())
        path.write_text(json.dumps(head | {"notes": ["it is slow", "and late"]}))
        runs = run_folder.load(tmp_path)
        found = gather(runs)
        assert found.facts["notes"] == ["it is slow; and late"]

    def test_notes_of_a_run_are_told_once(self, tmp_path):
        fed_run(tmp_path, "fd", 3, 0.8)
        path = tmp_path / "fd-3" / "metrics.jsonl"
        path.write_text(path.read_text().replace('"rejected"', '"notes": ["slow"], "rejected"'))
        (table,) = tables(run_folder.load(tmp_path))
        assert [n for n in table.notes if n.startswith("Note")] == ["Note: fd, seed 3: slow."]

    def test_a_note_of_all_runs_stands_there_once(self, tmp_path):
        for seed, more in ((3, ""), (4, ', "late"')):
            fed_run(tmp_path, "fd", seed, 0.8)
            path = tmp_path / f"fd-{seed}" / "metrics.jsonl"
            noted = f'"notes": ["slow"{more}], "rejected"'
            path.write_text(path.read_text().replace('"rejected"', noted))
        (table,) = tables(run_folder.load(tmp_path))
        said = [n for n in table.notes if n.startswith("Note")]
        assert said == ["Note: slow.", "Note: fd, seed 4: late."]

    def test_a_note_of_all_methods_with_a_seed_names_the_seed_alone(self, tmp_path):
        for method, seed, note in (("fd", 3, "a"), ("md", 3, "a"), ("fd", 4, "b"), ("md", 4, "c")):
            fed_run(tmp_path, method, seed, 0.8)
            path = tmp_path / f"{method}-{seed}" / "metrics.jsonl"
            noted = f'"notes": ["{note}"], "rejected"'
            path.write_text(path.read_text().replace('"rejected"', noted))
        (table,) = tables(run_folder.load(tmp_path))
        said = [n for n in table.notes if n.startswith("Note")]
        assert said == ["Note: seed 3: a.", "Note: fd, seed 4: b.", "Note: md, seed 4: c."]

    @pytest.mark.parametrize(
        ("value", "form", "text"),
        [
            (209_123.4, ".4g", "209,100"),
            (-106_000, "+.3g", "-106,000"),
            (85_900, "+.3g", "+85,900"),
            (4_859.2, ".4g", "4859"),
            (1e7, ".4g", "1e+07"),
            (9_999.9, ".4g", "10,000"),
            (0.25, "+.1f", "+0.2"),
            (123_456.0, ".1f", "123456.0"),
        ],
    )
    def test_large_numbers_have_no_exponent(self, value, form, text):
        assert figure(value, form) == text

    def test_what_a_graph_method_calls_rounds_is_no_setting_of_the_task(self, tmp_path):
        for method, rounds in (("cpf", 5), ("other", 7)):
            graph_run(tmp_path, method, 0, 0.8, 0.7)
            path = tmp_path / f"{method}-0" / "run.json"
            path.write_text(path.read_text().replace('"seed": 0', f'"seed": 0, "rounds": {rounds}'))
        (table,) = tables(run_folder.load(tmp_path))
        assert not any("Compare with care" in note for note in table.notes)

    def test_bytes_in_readable_units(self, fed):
        (table,) = tables(run_folder.load(fed))
        assert cells(table, "fedmd")["Sent up"] == "1.20 MB"
        assert cells(table, "local")["Sent down"] == "0 B"

    def test_a_diverged_seed_is_not_counted(self, fed):
        path = fed / "fedmd-0" / "metrics.jsonl"
        path.write_text(
            path.read_text().replace('"calibration_error": 0.125', '"calibration_error": null')
        )
        (table,) = tables(run_folder.load(fed))
        assert cells(table, "fedmd")["Calibration error (%)"] == "12.5 ± 0.0 (n = 2)"

    def test_other_settings_are_another_method(self, tmp_path):
        for temperature in (1, 4):
            more = {"settings": {"temperature": temperature}}
            fed_run(tmp_path / str(temperature), "fedmd", 0, 0.2 * temperature, **more)
        (table,) = tables(run_folder.load(tmp_path))
        assert list(table.rows) == ["fedmd (temperature=1)", "fedmd (temperature=4)"]

    def test_the_same_run_twice_counts_once(self, tmp_path):
        for folder, engine in (("a", "sequential"), ("b", "batched")):
            fed_run(tmp_path / folder, "fedmd", 0, 0.8, settings={"engine": engine})
        (table,) = tables(run_folder.load(tmp_path))
        assert cells(table, "fedmd")["Seeds"] == "1"
        runs = run_folder.load(tmp_path)
        found = results(runs)
        assert facts(runs, found, found)["repeated"] == [
            "1 of the same experiment and seed, counted once"
        ]

    def test_local_of_another_federation_is_no_reference(self, tmp_path):
        fed_run(tmp_path, "local", 0, 0.5, settings={"private": 100})
        fed_run(tmp_path, "fd", 0, 0.6, settings={"private": 500})
        (table,) = tables(run_folder.load(tmp_path))
        assert "the same, minus local (points)" not in table.header
        assert any("differ in private" in note for note in table.notes)

    def test_of_two_references_the_one_with_the_same_training(self, tmp_path):
        for epochs, alone in ((1, 0.5), (5, 0.7)):
            more = {"settings": {"local.epochs": epochs}}
            fed_run(tmp_path / str(epochs), "local", 0, alone, **more)
        fed_run(tmp_path, "fd", 0, 0.8, settings={"local.epochs": 5})
        (table,) = tables(run_folder.load(tmp_path))
        assert cells(table, "fd")["the same, minus local (points)"] == "+10.0"

    def test_the_gain_of_a_graph_student_is_paired(self, tmp_path):
        # Gains 5, 7: an interval of two would be 12.706 x 1.414 / sqrt(2) = 12.7 wide each way.
        graph_run(tmp_path, "glnn", 0, 0.80, 0.75)
        graph_run(tmp_path, "glnn", 1, 0.84, 0.77)
        (table,) = tables(run_folder.load(tmp_path))
        row = cells(table, "glnn")
        assert row["Gain over student without KD (points)"] == "+5.0 and +7.0"
        assert row["Teacher (%)"] == "90.0 ± 0.0"
        assert "Student, observed nodes (%)" not in row  # they are all there are

    def test_inductive_parts(self, tmp_path):
        parts = {"accuracy_tran": 0.9, "accuracy_ind": 0.8, "accuracy_prod": 0.88}
        parts |= {"accuracy_baseline_prod": 0.86, "accuracy_teacher_prod": 0.9}
        graph_run(tmp_path, "glnn", 0, 0.8, 0.7, GRAPH | {"protocol": "inductive"}, **parts)
        (table,) = tables(run_folder.load(tmp_path))
        row = cells(table, "glnn")
        assert row["Student, both mixed (%)"] == "88.0"
        assert row["Gain, both mixed (points)"] == "+2.0"
        assert not any("baseline" in title for title in row)

    def test_a_table_for_each_data_and_protocol(self, fed):
        fed_run(fed / "more", "fd", 0, 0.5, header=FED | {"data": "mnist"})
        graph_run(fed, "glnn", 0, 0.8, 0.7)
        titles = [table.title for table in tables(run_folder.load(fed))]
        assert titles == [
            "Federated distillation, digits, 2 clients, iid, 2 rounds",
            "Federated distillation, mnist, 2 clients, iid, 2 rounds",
            "Graph distillation, digits-knn, transductive",
        ]

    def test_rejected_uploads_are_named(self, tmp_path):
        fed_run(tmp_path, "fedmd", 4, 0.8, rejected={"1": "weight -3 is not between 0 and 9"})
        (table,) = tables(run_folder.load(tmp_path))
        assert table.notes[-1] == (
            "Rejected: fedmd, seed 4, client 1, 2 uploads from round 1 on: "
            "weight -3 is not between 0 and 9"
        )

    def test_it_says_which_round_is_tested(self, fed):
        (table,) = tables(run_folder.load(fed))
        assert any("Test numbers are those of the last round" in note for note in table.notes)

    def test_markdown(self, fed):
        lines = markdown(tables(run_folder.load(fed))).splitlines()
        assert lines[0] == "## Federated distillation, digits, 2 clients, iid, 2 rounds"
        assert lines[2].startswith("| Method | Seeds | Accuracy, global test set (%) |")
        assert lines[5].startswith("| fedmd | 3 | 82.0 ± 2.0 | +10.0 (+5.0 to +15.0) |")
        assert len({line.count("|") for line in lines[2:6]}) == 1

    def test_a_pipe_stays_in_its_cell(self, tmp_path):
        fed_run(tmp_path, "a|b", 0, 0.5)
        assert "| a\\|b | 1 |" in markdown(tables(run_folder.load(tmp_path)))

    def test_csv_holds_numbers_at_full_precision(self, fed):
        rows = list(csv.DictReader(comma_separated(tables(run_folder.load(fed))).splitlines()))
        row = next(r for r in rows if (r["method"], r["metric"]) == ("fedmd", "accuracy"))
        assert float(row["mean"]) == pytest.approx(0.82, abs=1e-15)
        assert float(row["std"]) == pytest.approx(0.02, abs=1e-15)
        assert row["n"] == "3"
        traffic = next(r for r in rows if (r["method"], r["metric"]) == ("fedmd", "bytes_up"))
        assert float(traffic["mean"]) == 1_200_000

    def test_tables_do_without_matplotlib(self):
        code = "import sys, simulations.results.tables; sys.exit('matplotlib' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


class Links(HTMLParser):
    """All that a page could load, and whether its elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.images += [dict(attrs)] if tag == "img" else []
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class TestPage:
    def test_one_file_with_all_figures(self, page):
        text = page.read_text(encoding="utf-8")
        links = Links(text)
        assert links.open == []
        assert page.name == "report.html"
        assert len(links.found) == 12  # six figures, wide and narrow: four of the federation
        assert all(link.startswith("data:image/svg+xml;base64,") for link in links.found)
        assert not re.search(r"https?://|<script|<link|@import|url\(", text)
        assert all("seed" in image["alt"] for image in links.images)

    def test_pictures_load_nothing(self, page):
        for link in Links(page.read_text()).found:
            picture = base64.b64decode(link.partition(",")[2]).decode()
            assert "<svg" in picture
            targets = re.findall(r'(?:href|src)="([^"]*)"', picture)
            assert all(target.startswith(("#", "data:")) for target in targets)

    def test_telephones_get_figures_of_their_own(self, page):
        """A source for narrow screens stands before the image, whose text would be too small."""
        found = re.findall(
            r'<source media="(.*?)" srcset="(.*?)"><img alt=".*?" src="(.*?)">', page.read_text()
        )
        assert len(found) == 6
        for media, *pictures in found:
            assert media == "screen and (max-width: 45rem)"
            svgs = (base64.b64decode(p.partition(",")[2]).decode() for p in pictures)
            widths = [float(re.search(r'width="([0-9.]+)pt"', svg)[1]) for svg in svgs]
            assert widths == [3.75 * 72, 9 * 72]

    def test_the_same_runs_give_the_same_page(self, page):
        assert render(page.parent) == page.read_text()

    def test_the_head_says_what_was_run(self, page):
        text = page.read_text()
        assert "<dt>seeds</dt><dd>0; 1; 2</dd>" in text
        assert "python 3.11.9, torch 2.13.0; python 3.11.9, torch 2.12.1" in text
        assert "<dt>threads</dt><dd>1</dd>" in text
        assert "Seeds: local 3, fd 1, fedmd 3." in text

    def test_what_a_run_says_is_escaped(self, tmp_path):
        bad = "<script>alert('x')</script>"
        header = FED | {"data": "a&b<i>", "protocol": '"><img src=x>'}
        fed_run(tmp_path, bad, 0, 0.5, header=header, rejected={"<b>": "<b>no</b> & more"})
        text = render(tmp_path)
        assert "&lt;script&gt;" in text
        assert "<dd>a&amp;b&lt;i&gt;</dd>" in text
        assert not re.search(r"<script|<i>|<img src=x|<b>no", text)
        assert not re.search(r"<script|<b>", markdown(tables(run_folder.load(tmp_path))))

    def test_tables_and_figures_beside_the_page(self, fed, tmp_path):
        page = write_report([fed / "local-0", fed / "fedmd-0"], tmp_path / "out" / "page.html")
        assert page == tmp_path / "out" / "page.html"
        beside = {path.name for path in page.parent.iterdir()}
        assert beside == {"page.html", "tables.md", "tables.csv", "figures"}
        names = {path.name for path in (page.parent / "figures").iterdir()}
        shown = ("accuracy_per_round", "accuracy_per_megabyte", "client_spread", "fidelity")
        assert names == {f"1-{name}.png" for name in shown}
        for path in (page.parent / "figures").iterdir():
            assert path.read_bytes().startswith(b"\x89PNG")

    def test_what_a_graph_run_has_kept_is_drawn(self, tmp_path):
        graph_run(tmp_path, "glnn", 0, 0.8, 0.7)
        save_file(kept(), tmp_path / "glnn-0" / run_folder.PREDICTIONS)
        page = write_report([tmp_path])
        names = {path.stem for path in (page.parent / "figures").iterdir()}
        shown = ("accuracy_per_class", "accuracy_per_degree", "reliability", "embeddings")
        shown += ("accuracy_against_latency", "neighbourhood", "students", "fidelity")
        assert names == {f"1-{name}" for name in shown}
        assert len(Links(page.read_text()).images) == 8

    def test_a_damaged_file_is_named(self, tmp_path):
        graph_run(tmp_path, "glnn", 0, 0.8, 0.7)
        (tmp_path / "glnn-0" / run_folder.PREDICTIONS).write_bytes(b"cut off")
        with pytest.raises(ValueError, match=r"glnn-0.*safetensors is damaged.*; delete it"):
            write_report([tmp_path])

    def test_an_unfinished_run_is_left_out_and_named(self, page):
        cut = page.parent / "cut"
        assert f">Left out, as not finished: {cut}.</p>" in page.read_text()

    def test_by_default_the_page_is_above_all_runs(self, tmp_path):
        graph_run(tmp_path / "deep", "glnn", 0, 0.8, 0.7)
        graph_run(tmp_path, "glnn", 1, 0.8, 0.7)
        folders = [tmp_path / "deep" / "glnn-0", tmp_path / "glnn-1"]
        assert write_report(folders) == tmp_path / "report.html"
        assert write_report(folders[:1]) == folders[0] / "report.html"

    def test_nothing_to_report(self, tmp_path):
        with pytest.raises(ValueError, match=r"no finished run in .*: expected .* `kdsim run`"):
            write_report([tmp_path])
        assert list(tmp_path.iterdir()) == []

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(ValueError, match="nowhere is no folder; give a run folder"):
            write_report([tmp_path / "nowhere"])


def test_real_targets_have_their_gain_over_the_student_alone(tmp_path):
    header = GRAPH | {"data": "rings", "protocol": "folds"}
    for seed, (alone, taught) in enumerate([(0.80, 0.85), (0.70, 0.85)]):
        metrics = {"r2": taught, "r2_baseline": alone, "r2_teacher": 0.9, "r2_baseline_tran": 0.1}
        write_run(tmp_path / f"logits-{seed}", header, "logits", seed, metrics)
    (table,) = tables(run_folder.load(tmp_path))
    row = cells(table, "logits")
    assert row["Student, R² (%)"] == "85.0 ± 0.0"
    assert row["Gain, R² (points)"] == "+5.0 and +15.0"
    assert row["Teacher, R² (%)"] == "90.0 ± 0.0"
    assert not any("tran" in title for title in table.header)
