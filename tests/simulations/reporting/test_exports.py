"""Tables for other programs: nothing in them is run, and every number is a number."""

import csv
import io

import pytest

from simulations.reporting.exports import comma_separated, markdown
from simulations.results.run_results import Result
from simulations.results.tables import table


def cells(label, accuracy=0.5, data="digits"):
    metrics = {"accuracy": accuracy, "consensus_distance": -1.5}
    return table([Result("fed", data, "p", label, 0, metrics, (), {}, label)])


def rows(one):
    return list(csv.DictReader(io.StringIO(comma_separated([one]), newline="")))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])  # noqa: RUF001
def test_text_is_no_formula(start):
    text = f'{start}HYPERLINK("http://x";A1)'
    for row in rows(cells(text, data=text)):
        assert row["method"] == f"'{text}"
        assert row["data"] == f"'{text}"


def test_numbers_and_other_text_are_as_they_are():
    first, second = rows(cells("fd (mu=-1)"))[:2]
    assert first["method"] == "fd (mu=-1)"
    assert (first["metric"], float(first["mean"])) == ("accuracy", 0.5)
    assert (second["metric"], second["mean"]) == ("consensus_distance", "-1.5")
    assert list(first)[6:] == ["mean", "std", "n", "low", "high"]


def split(line):
    """The cells of a row as GitHub's Markdown has them: a backslash takes what follows along."""
    found, text = [""], iter(line.strip().strip("|"))
    for letter in text:
        if letter == "\\":
            found[-1] += next(text)
        elif letter == "|":
            found.append("")
        else:
            found[-1] += letter
    return [cell.strip() for cell in found]


@pytest.mark.parametrize(
    "label",
    [
        "a|b",
        "a\\|b",
        "a\\",
        "![x](http://x/y.png)",
        "[x](javascript:1)",
        "`a|b`",
        "*a*",
        "a\n|b\r\n",
    ],
)
def test_a_cell_of_markdown_stays_one_and_is_text(label):
    lines = markdown([cells(label)]).splitlines()
    header, _, row = lines[2:5]
    assert len(split(row)) == len(split(header))
    assert split(row)[0] == " ".join(label.split())
    bare = row.replace("\\\\", "")
    for sign in "[]*`":
        assert bare.count(sign) == bare.count(f"\\{sign}")


def test_tags_are_text_in_markdown():
    assert "&lt;img src=x&gt;" in markdown([cells("<img src=x>")])
