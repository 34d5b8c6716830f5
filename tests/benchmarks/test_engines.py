"""What the workloads of engines are made of."""

import pytest

from benchmarks.engines import NOISE, WORKLOADS, load


@pytest.mark.parametrize("name", WORKLOADS)
def test_noise_is_enough_for_every_workload_where_there_are_no_files(name):
    work = WORKLOADS[name]
    there = len(load("digits").y) if work.data == "digits" else NOISE
    assert work.private + work.public < there  # some are left to test on
