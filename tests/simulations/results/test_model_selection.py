"""Settings are chosen on validation data, and reported on test data."""

import pytest

from simulations.cli.app import main
from simulations.reporting.report import write_report
from simulations.results import run_folder
from simulations.results.model_selection import choices
from simulations.results.run_results import labelled, results
from tests.simulations.reporting.test_report import FED, fed_run, graph_run

STRENGTH = "strength"


def runs(folder, method, setting, scores, alpha=0.3, first=0):
    """Seeds with (validation, test) accuracies; the validation one may be missing."""
    header = FED | {"protocol": f"2 clients, dirichlet {alpha}"}
    for seed, (validation, test) in enumerate(scores, first):
        more = {} if validation is None else {"accuracy_validation": validation}
        given = {"settings": {STRENGTH: setting, "alpha": alpha}, "header": header}
        fed_run(folder / f"{alpha}-{setting}", method, seed, test, metrics=more, **given)


def chosen(folder, metric="accuracy_validation"):
    return choices(results(run_folder.load(folder)), metric)


def test_the_best_on_validation_is_chosen_though_another_is_better_on_test(tmp_path):
    runs(tmp_path, "fedproto", 0.1, [(0.80, 0.50), (0.70, 0.60)])  # 0.75 on validation
    runs(tmp_path, "fedproto", 1.0, [(0.90, 0.40), (0.40, 0.99)])  # 0.65
    (choice,) = chosen(tmp_path)
    assert choice.chosen == "fedproto (strength=0.1)"
    assert choice.scores == pytest.approx(
        {"fedproto (strength=0.1)": 0.75, "fedproto (strength=1.0)": 0.65}
    )
    assert [r.metrics["accuracy"] for r in choice.results] == [0.5, 0.6]


def test_settings_are_compared_on_the_seeds_that_all_have(tmp_path):
    runs(tmp_path, "fedproto", 0.1, [(0.6, 0.5)])
    runs(tmp_path, "fedproto", 1.0, [(0.5, 0.5), (0.9, 0.5)])  # better on average, not on seed 0
    (choice,) = chosen(tmp_path)
    assert choice.chosen == "fedproto (strength=0.1)"


def test_each_protocol_has_a_choice_of_its_own(tmp_path):
    for alpha, better in ((0.3, 0.1), (1.0, 1.0)):
        for strength in (0.1, 1.0):
            score = 0.9 if strength == better else 0.8
            runs(tmp_path, "fedproto", strength, [(score, 0.5)], alpha)
    assert [c.results[0].settings[STRENGTH] for c in chosen(tmp_path)] == ["0.1", "1.0"]


def test_a_setting_of_a_graph_method_is_one_to_choose_whatever_its_name(tmp_path):
    """CPF has `rounds` of its own; those of a federation are the task's."""
    for rounds, score in ((5, 0.6), (7, 0.9)):
        graph_run(tmp_path / str(rounds), "cpf", 0, score, 0.5)
        path = tmp_path / str(rounds) / "cpf-0" / "run.json"
        path.write_text(path.read_text().replace('"seed": 0', f'"seed": 0, "rounds": {rounds}'))
    (choice,) = chosen(tmp_path, "accuracy")
    assert choice.chosen == "cpf (rounds=7)"


def test_a_seed_that_lost_its_score_counts_below_all(tmp_path):
    runs(tmp_path, "fedproto", 0.1, [(0.6, 0.5), (None, 0.5)])  # (0.6 - 1) / 2
    runs(tmp_path, "fedproto", 1.0, [(0.1, 0.5), (0.1, 0.5)])
    (choice,) = chosen(tmp_path)
    assert choice.scores["fedproto (strength=0.1)"] == pytest.approx(-0.2)
    assert choice.chosen == "fedproto (strength=1.0)"


def test_what_is_shared_by_all_methods_is_no_setting_to_choose(tmp_path):
    """Two numbers of clients are two questions, not two answers."""
    for clients in (2, 4):
        given = {"settings": {"clients": clients, STRENGTH: 1.0}}
        more = {"accuracy_validation": clients / 10}
        fed_run(tmp_path / str(clients), "fedproto", 0, 0.5, metrics=more, **given)
    assert len(chosen(tmp_path)) == 2


def test_a_setting_that_diverged_is_not_chosen(tmp_path):
    runs(tmp_path, "fedproto", 0.1, [(0.2, 0.2), (0.2, 0.2)])
    runs(tmp_path, "fedproto", 1.0, [(0.9, 0.9), (None, 0.1)])  # (0.9 - 1) / 2 < 0.2
    (choice,) = chosen(tmp_path)
    assert choice.chosen == "fedproto (strength=0.1)"


def test_labels_of_what_is_left_are_short(tmp_path):
    runs(tmp_path, "fedproto", 0.1, [(0.6, 0.5)])
    runs(tmp_path, "fedproto", 1.0, [(0.5, 0.5)])
    assert [r.label for r in labelled(chosen(tmp_path)[0].results)] == ["fedproto"]


def test_nothing_to_select_by_is_an_error_that_names_what_there_is(tmp_path):
    runs(tmp_path, "fedproto", 0.1, [(None, 0.5)])
    with pytest.raises(
        ValueError, match=r"no run has accuracy_validation .*there are accuracy, .*"
    ):
        chosen(tmp_path)


def test_settings_without_a_common_seed_are_an_error(tmp_path):
    runs(tmp_path, "fedproto", 0.1, [(0.6, 0.5)])
    runs(tmp_path, "fedproto", 1.0, [(0.5, 0.5)], first=1)
    with pytest.raises(ValueError, match="fedproto: its 2 settings have no seed in common"):
        chosen(tmp_path)


def test_the_report_has_the_chosen_setting_alone_and_tells_of_all(tmp_path, capsys):
    runs(tmp_path, "fedproto", 0.1, [(0.80, 0.50), (0.70, 0.60)])
    runs(tmp_path, "fedproto", 1.0, [(0.90, 0.40), (0.40, 0.99)])
    page = write_report([tmp_path], tmp_path / "page", "accuracy_validation").read_text()
    table = (tmp_path / "page" / "tables.md").read_text()
    assert "| fedproto | 2 | 55.0 ± 7.1 |" in table
    assert "fedproto (strength=1.0)</td>" in page
    assert "<td>0.750</td><td>yes</td>" in page
    assert "<td>0.650</td><td></td>" in page
    assert main(["report", str(tmp_path), "--select", "accuracy_vaildation"]) == 2
    assert "no run has accuracy_vaildation" in capsys.readouterr().err


def test_settings_of_the_same_name_are_told_apart(tmp_path):
    for local, distill in ((0.1, 0.1), (0.1, 0.2), (0.2, 0.1)):
        given = {"local": {"learning_rate": local}, "distill": {"learning_rate": distill}}
        fed_run(tmp_path / f"{local}-{distill}", "feddf", 0, 0.5, settings=given)
    labels = {result.label for result in results(run_folder.load(tmp_path))}
    assert "feddf (distill.learning_rate=0.2, local.learning_rate=0.1)" in labels
