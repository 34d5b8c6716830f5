"""The tables of docs/reproductions.md, from the folders that `kdsim run cpf.toml` has written.

    python -m benchmarks.reproductions runs/cpf-1234abcd --page docs/reproductions.md

Without `--page` the tables are printed; with it they take the place of those on the page. At last
it says how far teacher, MLP and GLNN are from the published means, and what GLNN gains.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from simulations.results import run_folder
from simulations.results.tables import Quantity, summary

DATA = {
    "cora": "Cora",
    "citeseer": "CiteSeer",
    "amazon-photo": "Amazon Photo",
    "amazon-computers": "Amazon Computers",
}
METHODS = {
    "teacher": "SAGE (teacher)",
    "mlp": "MLP",
    "glnn": "GLNN",
    "nosmog": "NOSMOG",
    "krd": "KRD",
    "ffg2m": "FF-G2M",
}
# Means and population deviations of ten seeds, in the order of DATA. Transductive: the table of
# NOSMOG, and for the last two the re-run in the paper of G2MLP. Inductive: GLNN's README, and then
# NOSMOG's table; for the last two the same re-run.
PUBLISHED = {
    ("transductive", "teacher"): ("80.6 +- 1.6", "70.5 +- 1.5", "90.8 +- 0.9", "82.8 +- 1.4"),
    ("transductive", "mlp"): ("59.2 +- 1.6", "58.5 +- 1.9", "77.3 +- 1.8", "67.6 +- 2.2"),
    ("transductive", "glnn"): ("80.3 +- 1.7", "71.2 +- 1.5", "92.0 +- 1.0", "82.7 +- 1.2"),
    ("transductive", "nosmog"): ("83.0 +- 1.3", "73.8 +- 1.5", "93.4 +- 0.7", "84.0 +- 1.0"),
    ("transductive", "krd"): ("82.3 +- 1.3", "72.8 +- 1.7", "92.0 +- 1.4", "82.9 +- 0.9"),
    ("transductive", "ffg2m"): ("82.4 +- 1.4", "72.8 +- 1.6", "92.5 +- 0.6", "83.7 +- 1.0"),
    ("inductive", "teacher"): ("81.3, 81.0", "69.8, 69.1", "91.5, 90.6", "82.1, 82.8"),
    ("inductive", "mlp"): ("59.1, 59.4", "60.1, 59.3", "79.4, 77.4", "67.8, 67.7"),
    ("inductive", "glnn"): ("73.8, 73.2", "69.3, 68.5", "91.2, 89.5", "80.9, 80.3"),
    ("inductive", "krd"): ("70.3", "69.8", "90.0", "79.2"),
    ("inductive", "ffg2m"): ("72.0", "69.8", "90.7", "80.5"),
}
Seeds = Mapping[int, float]  # seed -> per cent
Cells = dict[tuple[str, str, str, str], dict[int, float]]  # protocol, data, method, metric


def read(folders: Iterable[Path]) -> Cells:
    """The metrics of all finished runs; the teacher's are those of GLNN's runs."""
    found: Cells = defaultdict(dict)
    for run in (run for folder in folders for run in run_folder.load(folder) if run.complete):
        end = next(record for record in run.records if record["record"] == "run")
        where, method = (end["protocol"], end["data"]), end["method"]
        for metric, value in end["metrics"].items():
            found[(*where, method, metric)][end["seed"]] = 100 * value
            if method == "glnn" and metric.startswith("accuracy_teacher"):
                own = metric.replace("_teacher", "")
                found[(*where, "teacher", own)][end["seed"]] = 100 * value
    return found


def spread(values: Seeds) -> str:
    """Mean and sample deviation, as far as there are any."""
    found = summary(values.values())
    if found is None:
        return ""
    return f"{found.mean:.1f}" + ("" if found.std is None else f" +- {found.std:.1f}")


def gap(values: Seeds, others: Seeds) -> Quantity | None:
    """The difference of two methods, paired by seed."""
    return summary(values[seed] - others[seed] for seed in values if seed in others)


def difference(values: Seeds, others: Seeds) -> str:
    """The difference of two methods with its 95 % t-interval."""
    found = gap(values, others)
    if found is None:
        return ""
    low, high = found.low, found.high
    return f"{found.mean:+.1f}" + ("" if low is None else f" ({low:+.1f} to {high:+.1f})")


def table(cells: Cells, protocol: str) -> str:
    """The Markdown table of a protocol."""
    inductive = protocol == "inductive"
    ours = "ours (ind)" if inductive else "ours"
    head = ["data", "method", "n", ours, "published", "minus MLP (95 %)", "minus GLNN (95 %)"]
    rows = [head + ["prod, ours"] * inductive]
    rows.append(["---"] * len(rows[0]))
    for place, (data, title) in enumerate(DATA.items()):
        known = {m: cells.get((protocol, data, m, "accuracy"), {}) for m in METHODS}
        for method, values in known.items():
            published = PUBLISHED.get((protocol, method), ("",) * len(DATA))[place]
            row = [title, METHODS[method], str(len(values)), spread(values), published]
            taught = method not in ("teacher", "mlp")
            row.append(difference(values, known["mlp"]) if taught else "")
            row.append(difference(values, known["glnn"]) if taught and method != "glnn" else "")
            if inductive:
                row.append(spread(cells.get((protocol, data, method, "accuracy_prod"), {})))
            rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def verdict(cells: Cells) -> str:
    """How far from the published means we are, and what GLNN gains."""
    lines = []
    for (protocol, method), published in PUBLISHED.items():
        for data, text in zip(DATA, published, strict=True):
            found = summary(cells.get((protocol, data, method, "accuracy"), {}).values())
            if method in ("teacher", "mlp", "glnn") and found is not None:
                means = [float(part.partition(" ")[0]) for part in text.split(", ")]
                off = min((found.mean - mean for mean in means), key=abs)
                far = "" if abs(off) <= 2 else "   more than 2 points"
                lines.append(f"{protocol:13} {data:17} {method:8} {off:+.1f} (n = {found.n}){far}")
    for protocol in ("transductive", "inductive"):
        for data in DATA:
            mlp, glnn = (cells.get((protocol, data, m, "accuracy"), {}) for m in ("mlp", "glnn"))
            lines.append(f"{protocol:13} {data:17} GLNN - MLP {difference(glnn, mlp)}")
    return "\n".join(lines)


def put(page: str, name: str, text: str) -> str:
    """The page with another table between the marks of this name."""
    start, stop = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.partition(start)
    _, ended, after = rest.partition(stop)
    if not found or not ended:
        raise SystemExit(f"no table between {start.strip()} and {stop} on the page; put them there")
    return f"{before}{start}\n{text}\n\n{stop}{after}"


def main() -> None:
    """Print the tables, or put them on the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    cells = read(options.folders)
    tables = {name: table(cells, name) for name in ("transductive", "inductive")}
    if options.page:
        page = options.page.read_text(encoding="utf-8")
        for name, text in tables.items():
            page = put(page, name, text)
        options.page.write_text(page, encoding="utf-8")
    else:
        print("\n\n".join(tables.values()))
    print(verdict(cells))


if __name__ == "__main__":
    main()
