"""Data in a file on the command line: real targets are learnt, and what cannot be is one line."""

import json

import numpy as np
import pandas as pd
import pytest

from simulations.results import run_folder

FEW = ["--models", "mlp-8", "--clients", "3", "--public", "30", "--rounds", "2", "--workers", "1"]
FEW += ["--local-learning-rate", "0.05"]


@pytest.fixture
def houses(tmp_path):
    """A table of 150 houses; half of them have a garden."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(150, 2))
    table = pd.DataFrame(x, columns=["north", "rooms"])
    table["garden"] = np.where(x[:, 0] > 0, "yes", "no")
    table["price"] = 1000 * (x @ [3.0, 1.0]) + 5.5
    table.to_csv(tmp_path / "houses.csv", index=False)
    return table


@pytest.mark.usefixtures("houses")
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["fd", "--label", "price"], "FD needs one class for each example"),
        (["fedmd", "--label", "price", "--partition", "dirichlet"], "deals examples out by class"),
        (["fedmd", "--label", "garden", "--target", "real"], "text, such as 'yes'"),
        (["dsfl", "--label", "price"], "take aggregation sa"),
        pytest.param(
            ["fedmd", "--label", "prize"],
            "no column 'prize'; did you mean 'price'?",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["fedmd", "--label", "price", "--by", "garden"],
            "numbers of column 'garden' are text",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["fedmd", "--label", "price", "--models", "cnn"], "cnn", marks=pytest.mark.slow
        ),
        pytest.param(
            ["fedmd", "--label", "price", "--label-noise", "0.1"],
            "label noise is of classes",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["fedmd", "--label", "price", "--absent-classes", "1"],
            "absent classes are for classes",
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_line(kdsim, flags, reason):
    method, *more = flags
    status, out, err = kdsim("fed", method, "--data", "houses.csv", *FEW, *more)
    assert status == 2
    assert reason in err
    assert len(err.strip().splitlines()) == 1
    assert not out


def test_columns_are_of_files(kdsim):
    status, _, err = kdsim("fed", "fedmd", "--label", "price")
    assert status == 2
    assert "of data in a file such as houses.csv, and data is digits" in err
    status, _, err = kdsim("fed", "fedmd", "--data", "no.csv", "--label", "price")
    assert status == 2
    assert "no.csv: there is no such file" in err


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_real_column_is_learnt_and_the_file_is_known_by_its_bytes(kdsim, houses, tmp_path):
    flags = ["fed", "fedmd", "--data", "houses.csv", "--label", "price", "--by", "north", *FEW]
    status, out, err = kdsim(*flags, "--json", "--validation", "10")
    assert status == 0, err
    records = [json.loads(line) for line in out.splitlines()]
    (end,) = [r for r in records if r["record"] == "run" and r["method"] == "fedmd"]
    assert list(end["metrics"])[:4] == ["rmse", "rmse_median", "rmse_max", "rmse_local"]
    assert {"mae", "rmse_validation", "bytes_up"} <= set(end["metrics"])
    assert not [name for name in end["metrics"] if name.startswith(("accuracy", "agreement"))]
    assert 0 < end["metrics"]["rmse"] < houses.price.std()
    assert "3 clients, auto, label price, by north" in end["protocol"]
    notes = [note for r in records for note in r.get("notes", ())]
    assert "partition auto is bands on these data" in notes
    (summary,) = [r for r in records if r["record"] == "summary" and r["method"] == "fedmd"]
    assert "rmse_baseline" in summary["metrics"]
    status, _, err = kdsim(*flags)
    assert "fedmd on houses.csv, seed 0: rmse" in err
    houses.assign(north=0.0).to_csv(tmp_path / "houses.csv", index=False)
    status, _, err = kdsim("resume", next((tmp_path / "runs").iterdir()))
    assert status == 2
    assert "houses.csv has changed since it began" in err


@pytest.mark.slow
@pytest.mark.usefixtures("houses")
def test_a_report_says_so(kdsim, tmp_path):
    flags = ["--data", "houses.csv", "--label", "price", *FEW, "--out", "runs/all", "--seeds", "3"]
    status, out, err = kdsim("fed", "fedavg", *flags, "--validation", "10")
    assert status == 0, err
    assert "test RMSE" in out
    page = (tmp_path / "runs/all/report.html").read_text()
    for words in (
        "RMSE, global test set",
        "in rmse, of which less is better",
        "RMSE on the global test set after each round",
        "RMSE of each client in the last round",
    ):
        assert words in page
    assert "Accuracy" not in page
    status, _, err = kdsim("report", "runs/all", "--select", "rmse_validation")
    assert status == 0, err
    assert len(run_folder.load(tmp_path / "runs/all")) == 6
