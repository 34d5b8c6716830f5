"""Audits: what is attacked is what crossed, candidates are fair, wrong input is one line."""

import json

import pytest
import torch

from kdattacks import REGISTRY, Scores, truth
from kdattacks.scoring import Decisions
from kdcore.rng import generator
from simulations.audits import federated, graphs
from simulations.audits import run as audits
from simulations.audits.candidates import matched
from simulations.audits.outcomes import Outcome, pooled
from simulations.config import experiments
from simulations.reporting.figures import roc
from tests.simulations.conftest import read
from tests.simulations.execution.test_replay import write


def test_candidates_have_the_same_labels_whether_members_or_not():
    y = torch.tensor([0, 0, 0, 1, 1, 2, 0, 0, 1, 1, 1, 3])
    members, others = torch.arange(6), torch.arange(6, 12)
    found = matched(members, others, y, generator(0, "c"))
    assert found.member.tolist() == [True] * 4 + [False] * 4
    inside, outside = found.rows[found.member], found.rows[~found.member]
    assert set(inside.tolist()) <= set(range(6))
    assert set(outside.tolist()) <= set(range(6, 12))
    assert torch.bincount(y[inside]).tolist() == torch.bincount(y[outside]).tolist() == [2, 2]
    many = matched(members[:1], torch.arange(1, 3), y, generator(0, "c"), most=50)
    assert many.member.tolist() == [True, False, False]
    none = matched(torch.tensor([5]), others, y, generator(0, "c"))
    assert len(none.rows) == len(none.member) == 0


def test_what_the_attacker_sees_is_what_crossed_and_what_is_true_is_what_was_held(tmp_path):
    experiment, path = write(tmp_path, label_noise=0.25, alpha=0.3)
    seen = federated.seen(path, None, 4, None, 2)
    assert (seen.targets, seen.last.index, len(seen.received)) == ((0, 1, 2, 3), 2, 2)
    for number, received in seen.sent[-1].items():
        sent = seen.last.uploads[number].payload["probabilities"]
        assert torch.equal(received.payload["probabilities"], sent)
    assert not seen.received[0][0]  # FedMD tells nothing in the first round
    assert torch.equal(seen.received[1][0]["consensus"], seen.last.broadcasts[0]["consensus"])
    for case in seen.cases:
        inside = case.knowledge.candidates.rows[case.member]
        assert set(inside.tolist()) <= set(case.client.private.rows.tolist())
        outside = case.knowledge.candidates.rows[~case.member]
        tested = seen.federation.test.rows.tolist()
        assert set(outside.tolist()) <= set(tested)
        others = set(case.knowledge.population.rows.tolist())
        assert not others & set(case.knowledge.candidates.rows.tolist())
        assert others <= set(tested)
    wrong = seen.labels != seen.federation.clients[0].private.y
    assert int(wrong.sum()) == int(wrong[seen.federation.test.rows].sum()) == 10  # of 40
    outcome = seen.outcome("labels", REGISTRY.get("labels"))
    assert {"kl", "kl_uniform", "majority"} <= set(outcome.measures)
    lira = seen.outcome("lira", REGISTRY.get("lira"))
    assert len(lira.decisions.truth) == sum(len(case.member) for case in seen.cases)
    again = federated.seen(path, None, 4, None, 2).outcome("lira", REGISTRY.get("lira"))
    assert torch.equal(lira.decisions.values, again.decisions.values)
    alone = federated.seen(path, None, 4, 2, None)
    assert (alone.targets, alone.last.index) == ((2,), experiment.rounds)


def test_weights_say_how_many_records_there_are_and_what_training_moved(tmp_path):
    _, path = write(tmp_path, "fedavg", alpha=0.3)
    seen = federated.seen(path, None, 4, None, None)
    counts = seen.outcome("counts", REGISTRY.get("counts"))
    assert counts.measures == {"exact": 1.0}
    assert counts.record["auc"] == 1
    with pytest.raises(ValueError, match="no predictions of public examples crossed .* did"):
        seen.outcome("public", REGISTRY.get("public"))


def test_what_is_about_single_records_has_no_shadows(tmp_path):
    _, path = write(tmp_path, "fedgkt", models=("mlp-8@16",))
    seen = federated.seen(path, None, 4, None, None)
    assert seen.shadow_config(0) is None
    with pytest.raises(ValueError, match="needs shadowing .* single records .* another attack"):
        seen.outcome("lira", REGISTRY.get("lira"))
    assert seen.outcome("labels", REGISTRY.get("labels")).record["auc"] == 1
    assert seen.outcome("counts", REGISTRY.get("counts")).measures == {"exact": 1.0}


def test_labels_that_are_sent_once_are_known_ever_after(tmp_path):
    _, path = write(tmp_path, "fedcache", alpha=0.3)
    seen = federated.seen(path, None, 4, None, None)
    first, *others = ("labels" in sent[0].payload for sent in seen.sent)
    assert first
    assert others
    assert not any(others)
    told = REGISTRY.get("labels")(seen.recorded, seen.knowledge, generator(0, "none")).values
    held = torch.stack(
        [one.private.y[one.private.rows].bincount(minlength=10) for one in seen.clients]
    )
    torch.testing.assert_close(told, held / held.sum(1, keepdim=True), check_dtype=False)
    assert seen.outcome("counts", REGISTRY.get("counts")).measures == {"exact": 1.0}


def outcome(name="lira", seed=0, **more):
    truth_ = torch.arange(400) < 200
    values = torch.randn(400, generator=generator(seed, name)).double() + truth_
    control = truth_[torch.randperm(400, generator=generator(seed, "control"))]
    about = {"attack": name, "method": "dsfl", "data": "digits", "seed": seed, **more}
    return Outcome(about, Decisions(values, truth_, control), {"kl": float(seed)})


def test_runs_that_differ_by_the_seed_are_pooled():
    parts = [outcome(seed=0), outcome("yeom"), outcome(seed=4), outcome(target="teacher")]
    found = pooled(parts)
    assert [one.about.get("seeds") for one in found] == [[0, 4], None, None]
    assert (found[0].record["positives"], found[0].record["kl"]) == (400, 2)
    assert torch.equal(found[0].decisions.values[400:], parts[2].decisions.values)


def test_a_curve_ends_where_chance_begins_and_the_axes_are_logarithmic():
    figure = roc.curves([outcome(), outcome("links", pairs="any", target="teacher")])
    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "membership of records",
        "links, any pair",
    ]
    for axes in panels:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        lines = {line.get_label(): line for line in axes.get_lines()}
        curves = [line for name, line in lines.items() if "lira" in name or "teacher" in name]
        (curve,) = curves
        assert min(curve.get_xdata()) == pytest.approx(10 / 200)
        assert "control: the truth shuffled" in lines
        assert "a guess" in lines
        upright = [set(line.get_xdata()) for line in axes.get_lines() if len(line.get_xdata()) == 2]
        assert {0.01} in upright
        assert {0.001} in upright
    few = Outcome({"attack": "labels"}, outcome().decisions, {})
    assert roc.curves([few]) is None


def test_unlinked_pairs_are_none_of_the_links_and_none_comes_twice():
    links = torch.tensor([[0, 1, 2, 3, 3], [1, 0, 3, 2, 3]])
    assert graphs.pairs(links).tolist() == [[0, 2], [1, 3]]
    found = graphs.unlinked(links, 5, generator(0, "pairs"))
    expected = {(a, b) for a in range(5) for b in range(a + 1, 5)} - {(0, 1), (2, 3)}
    assert {tuple(pair) for pair in found.T.tolist()} == expected
    assert found.shape == (2, 8)
    y = torch.tensor([0, 0, 0, 1, 1])
    same = graphs.unlinked(links, 5, generator(0, "pairs"), y)
    assert {tuple(pair) for pair in same.T.tolist()} == {(0, 2), (1, 2), (3, 4)}


OWN = """from kdattacks import Scores
def guess(recorded, knowledge, generator):
    import torch
    count = len(knowledge.candidates)
    return Scores(torch.rand(len(recorded.targets), count, generator=generator))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_the_command(kdsim, small, tmp_path):
    flags = [*small, "--label-noise", "0.2", "--seeds", "2", "--no-baseline", "--out", "runs"]
    assert kdsim("fed", "fedmd", *flags)[0] == 0
    (tmp_path / "mine.py").write_text(OWN)
    ask = ["--attack", "lira", "--attack", "labels", "--attack", "mine.py:guess"]
    status, out, err = kdsim("audit", "runs", *ask, "--shadows", "4", "--json")
    assert status == 0, err
    records = read(out)
    assert [r["attack"] for r in records] == ["lira", "labels", "mine.py:guess"]
    for record in records:
        assert record["record"] == "audit"
        assert record["seeds"] == [0, 1]
        assert {"auc", "tpr_01", "tpr_001", "control_auc"} <= set(record)
    assert "kl" in records[1]
    low, high = records[2]["control_interval"]
    assert low - 0.1 <= records[2]["auc"] <= high + 0.1
    for folder in (tmp_path / "runs", *(tmp_path / "runs").glob("fedmd*")):
        kept = json.loads((folder / "audit.json").read_text())["records"]
        assert [r["attack"] for r in kept] == ["lira", "labels", "mine.py:guess"]
        assert (folder / "audit.png").is_file()
        text = (folder / "audit.md").read_text()
        assert "server learns: the client's predictions for public examples" in text
        assert "| server | labels |" in text
    path = next((tmp_path / "runs").glob("fedmd*"))
    status, out, _ = kdsim("audit", path, "--attack", "yeom", "--client", "1")
    assert status == 0
    assert "who may ask" in out
    kept = json.loads((path / "audit.json").read_text())["records"]
    assert [r["attack"] for r in kept] == ["lira", "labels", "mine.py:guess", "yeom"]
    assert kept[-1]["clients"] == [1]
    (path / "audit.json").write_text("{}")
    _refused(kdsim, "audit.json is damaged; delete it", path, "--attack", "yeom")


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_the_command_on_a_graph(kdsim, tmp_path):
    given = ["--teacher-epochs", "5", "--epochs", "5", "--out", "runs"]
    assert kdsim("graph", "glnn", *given)[0] == 0
    status, out, _ = kdsim("audit", "runs", "--json")
    assert status == 0
    records = read(out)
    asked = [(r["attack"], r["target"], r.get("pairs")) for r in records]
    who = ["teacher", "student", "baseline"]
    assert asked[:8] == [
        ("links", one, kind) for kind in ("any", "same label") for one in (*who, "features")
    ]
    assert asked[8:] == [("nodes", one, None) for one in who]
    features = [r for r in records if r["target"] == "features"]
    assert features[0]["auc"] > 0.95  # the links of digits-knn are made of them
    assert all(r["tpr_001"] is not None for r in records if r["attack"] == "links")
    _refused(kdsim, "lira is no attack on a graph run", "runs", "--attack", "lira")


def _refused(kdsim, message, *arguments):
    status, _, err = kdsim("audit", *arguments)
    assert (status, err.count("\n")) == (2, 1), err
    assert message in err


@pytest.mark.usefixtures("no_report")
def test_a_baseline_in_which_nothing_crossed_is_left_out(kdsim, small, tmp_path):
    assert kdsim("fed", "fedmd", *small, "--out", "runs")[0] == 0  # and `local` beside it
    (baseline,) = (tmp_path / "runs").glob("local*")
    status, out, err = kdsim("audit", "runs", "--attack", "property", "--json")
    assert status == 0, err
    assert f"{baseline.name}:\n  property: not made: " in err
    assert [record["method"] for record in read(out)] == ["fedmd"]
    assert not (baseline / "audit.json").exists()
    assert kdsim("fed", "local", *small, "--seeds", "2", "--out", "alone")[0] == 0
    status, _, err = kdsim("audit", "alone", "--attack", "property")
    assert status == 2
    assert "no attack can be made on what crossed in any of the 2 runs in alone" in err


@pytest.mark.usefixtures("no_report")
def test_wrong_input_is_one_line(kdsim, small, tmp_path):
    assert kdsim("fed", "fedavg", *small, "--no-baseline", "--out", "runs")[0] == 0
    (path,) = (tmp_path / "runs").glob("fedavg*")
    for message, arguments in [
        ("links is no attack on a federated run", [path, "--attack", "links"]),
        ("unknown attack 'lirra'; did you mean 'lira'", [path, "--attack", "lirra"]),
        ("shadows: 3; this attack takes an even", [path, "--attack", "lira", "--shadows", "3"]),
        ("shadows: 2; this attack takes an even", [path, "--attack", "public", "--shadows", "2"]),
        ("--client 7: the clients of fedavg", [path, "--client", "7"]),
        ("--round 9: fedavg", [path, "--round", "9"]),
        ("nowhere holds no run", ["nowhere"]),
        ("there is no file", [path, "--attack", "absent.py:mine"]),
    ]:
        _refused(kdsim, message, *arguments)
    (tmp_path / "mine.py").write_text("def none(*seen): return 3\ndef fails(*seen): {}['y']\n")
    for name, message in [("none", " gives 3; expected Scores"), ("fails", ": KeyError: 'y'")]:
        status, _, err = kdsim("audit", path, "--attack", f"mine.py:{name}")
        assert (status, err.count("\n")) == (2, 2), err  # the run's name is the first line
        assert f"attack 'mine.py:{name}'{message}" in err
    text = (path / "metrics.jsonl").read_text().splitlines()
    (path / "metrics.jsonl").write_text("\n".join(text[:-1]) + "\n")
    _refused(kdsim, "is not finished; `kdsim resume", path)


def test_peers_clocks_and_sums_are_not_followed(tmp_path):
    for settings, message in [
        (dict(secure_sum=True), "has a secure sum: of a client the server saw"),
        (dict(topology="ring"), "has topology ring; an audit follows synchronous rounds"),
    ]:
        _, path = write(tmp_path, **settings)
        with pytest.raises(ValueError, match=message):
            federated.seen(path, None, 4, None, None)


def test_a_table_has_a_dash_where_nothing_can_be_told():
    found = audits.table([outcome(pairs="any").record])
    assert "## dsfl" in found
    (line,) = [one for one in found.splitlines() if one.startswith("| who may ask")]
    assert line.count("–") == 2  # 200 who are no members: neither 1 % nor 0.1 %
    known = truth.RecordCounts(torch.tensor([3]))
    nothing = known.decisions(Scores(torch.tensor([3.0]), "counts"), generator(0, "c"))
    received = Outcome(outcome().about, nothing, {"exact": 1.0}).record
    assert received["auc"] is None
    assert audits.row(received)[2:4] == ["–", "–"]


def test_runs_of_links_are_not_audited_and_say_which_are():
    llp = experiments.build("graph", "llp", {"epochs": 1, "teacher_epochs": 1})
    with pytest.raises(ValueError, match="llp learnt something else there: audit a run such as"):
        graphs.trained(llp)
