"""Equations of docstrings in LaTeX, and as MathML where the library for it is installed."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "equations", Path(__file__).resolve().parents[2] / "docs" / "equations.py"
)
equations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(equations)


@pytest.mark.parametrize(
    ("written", "latex"),
    [
        (r"\sum_c q_c \log p_c", r"\sum_c q_c \log p_c"),
        ("a >= b,   c != d", r"a \ge  b, \quad c \ne  d"),
        ("v_kp^2", "v_{k p}^2"),
        (r"\sum_{j in N(i) + {i}} x_j", r"\sum_{j \in N(i) + \{i\}} x_j"),
        ("softmax(t / T)", r"\mathrm{softmax}(t / T)"),
        ("leaky_relu(x) || y", r"\mathrm{leaky\_relu}(x) \parallel  y"),
        ("q of the teacher", r"q \text{ of the teacher }"),
        ("energy s^2", r"\text{ energy } s^2"),
        ("<e_ij, e_ik>", r"\langle e_{i j}, e_{i k} \rangle "),
    ],
)
def test_what_is_easy_to_read_is_written_out(written, latex):
    assert equations.latex(written) == latex


def page(text):
    return f"<p>x</p><pre><span></span><code>{text}\n</code></pre><p>y</p>"


def test_equations_alone_are_drawn_a_line_of_math_for_each():
    drawn = equations.drawn(page("\\alpha &lt; <span>b</span>\n\n\\beta"), lambda text: f"[{text}]")
    assert drawn == '<p>x</p><div class="equation">[\\alpha < b][\\beta]</div><p>y</p>'
    assert equations.drawn(page("kdsim run x"), lambda text: "no") == page("kdsim run x")


def test_what_cannot_be_converted_stays_text():
    def failing(text):
        raise IndexError

    assert equations.drawn(page("\\alpha"), failing) == page("\\alpha")


def test_every_equation_of_a_docstring_is_math():
    """None is left as it was: braces match, and a line stands by itself."""
    pytest.importorskip("latex2mathml", reason="latex2mathml is of the documentation")
    found = equations.on_page_content(page(r"T^2 \sum_c q_c (\log q_c - \log p_c)"))
    assert found.count("<math") == 1
    assert "<munder>" in found
    assert "<pre>" not in found
