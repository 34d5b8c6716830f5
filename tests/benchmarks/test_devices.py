"""The script for a person with a GPU runs to its end on a CPU, and its table is a table."""

import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.slow
@pytest.mark.ray
def test_the_table_of_a_device_has_all_its_rows():
    told = ["-m", "benchmarks.devices", "--device", "cpu", "--small", "--repeats", "1"]
    ended = subprocess.run(
        [sys.executable, *told], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-5000:]
    rows = [line.split("|")[1:-1] for line in ended.stdout.splitlines() if line.startswith("| ")]
    assert all(len(row) == 4 for row in rows)
    for what in ("FedMD, CNN", "FedAvg, CNN", "FedMD, ResNet-8", "FedAvg, ResNet-8", "two Ray"):
        (row,) = [row for row in rows if what in row[0] and ("two" in what) == ("two" in row[0])]
        ours, theirs = (float(re.search(r"([\d.]+) s", cell)[1]) for cell in row[1:3])
        rounding = 0.0005 / ours + 0.0005 / theirs  # seconds are told in thousandths
        ratio = float(row[3].strip().rstrip("x"))
        assert ratio == pytest.approx(theirs / ours, rel=1.1 * rounding, abs=0.006)
    assert {"teacher", "student"} <= {part.strip() for row in rows for part in row[0].split(",")}
