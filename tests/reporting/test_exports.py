r"""Tables as Markdown and LaTeX: what stands in them is shown, whatever characters it has."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from medvqa_cli.reporting.blocks import Meter, Note, Plots, Section, Table
from medvqa_cli.reporting.exports import render_latex, render_markdown
from medvqa_cli.reporting.figures import Figure

ODD = r"a_b & 50 % of $x$ #1 {y} ~z^2 \input{/etc} <b>|c| “q” 'r' `s` *t* [u]"
TABLE = Table("Odd: " + ODD, ["Part", "Value", "Words"], [[ODD, Meter("0.5 [0.4, 0.6]", 0.5), ODD], ["[x]", "-", ""]],
              "Measured on d, test split.", textual=("Words",))
FIGURE = Figure("accuracy", "Accuracy", "Lines: 95 % intervals.", "<svg/>", "<svg/>", b"png")
SECTIONS = [Section("own", "Own", "", [TABLE, Note("left out"), Plots([FIGURE])]),
            Section("none", "Nothing", "", [Table("Folded", ["a"], [["b"]], folded=True), Table("Empty", ["a"], [])])]


def test_markdown_shows_every_cell_as_it_is():
    text = render_markdown("run_1", SECTIONS, "../figures")
    assert text.startswith("# run\\_1\n\n## Own\n\n")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[1] == "| --- | ---: | --- |"
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}  # no cell ends a cell
    assert "| 0.5 \\[0.4, 0.6\\] |" in lines[2]
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    assert "Measured on d, test split." in text
    assert "![Accuracy](<../figures/accuracy.svg>)\n\n*Accuracy.* Lines: 95 % intervals." in text
    for absent in ("Nothing", "Folded", "Empty", "left out"):
        assert absent not in text


def test_latex_escapes_and_closes_everything():
    text = render_latex("run_1", SECTIONS, "../figures")
    assert (r"a\_b \& 50 \% of \$x\$ \#1 \{y\} \textasciitilde{}z\textasciicircum{}2 \textbackslash{}input\{/etc\}"
            in text)
    assert r"\begin{tabularx}{\linewidth}{>{\raggedright\arraybackslash}Xr>{\raggedright\arraybackslash}X}" in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {2}
    assert body[-1].startswith("{[x]} & ")  # else the rule above would take it for an option
    assert r"\includegraphics[width=0.7\linewidth]{\detokenize{../figures/accuracy.png}}" in text
    assert r"\label{tab:own-1}" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert "XeLaTeX" not in text


def test_characters_pdflatex_lacks_are_named():
    text = render_latex("r", [Section("s", "S", "", [Table("T", ["a", "b"], [["肺", "1"]])])], "figures")
    assert text.splitlines()[3] == "% Compile with XeLaTeX or LuaLaTeX and a font that has these characters: 肺"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles(tmp_path, full_run):
    from pathlib import Path

    from medvqa_cli.workflows.report import write_report
    from medvqa_cli.workflows.report_extras import Extras

    write_report(full_run, extras=Extras(latex=Path(tmp_path / "tables.tex"), output=tmp_path / "page.html"))
    (tmp_path / "odd.tex").write_text(render_latex("odd", [Section("own", "Own", "", [TABLE])], "."), encoding="utf-8")
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs,graphicx,tabularx}\n"
        "\\begin{document}\n\\input{tables.tex}\n\\input{odd.tex}\n\\end{document}\n", encoding="utf-8")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"], cwd=tmp_path,
                          capture_output=True, text=True, errors="replace", timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "main.pdf").stat().st_size > 10_000
