"""`python -m benchmarks` runs what is named, and says what each took."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as main


def test_what_is_named_runs_in_that_order_with_no_arguments(monkeypatch, capsys):
    seen = []

    def made(name):
        return SimpleNamespace(main=lambda: seen.append((name, sys.argv[1:])))

    monkeypatch.setattr(sys, "argv", ["benchmarks", "scale", "engines"])
    monkeypatch.setattr(main.importlib, "import_module", made)
    main.main()
    assert seen == [("benchmarks.scale", []), ("benchmarks.engines", [])]
    said = capsys.readouterr().out
    assert said.index("scale: 0 s of the CPU") < said.index("engines: 0 s of the CPU")


def test_what_is_no_benchmark_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "scales"])
    with pytest.raises(SystemExit, match="2"):
        main.main()
    assert "unknown benchmark scales; choose from engines, scale" in capsys.readouterr().err


def test_every_name_is_a_file_with_a_main():
    for name in main.NAMES:
        written = (Path(main.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
        assert "\ndef main() -> None:\n" in written
