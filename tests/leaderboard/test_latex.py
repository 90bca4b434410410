"""Tables as LaTeX: they compile, whatever names say, and the best group is bold."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.results import judged_rows, write_results

from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.tables import Cell, Row, Table, latex, latex_text
from mtrl_judge.leaderboard.view import build_view

HOSTILE = (
    r"50%_&\{#^~$x$|<b>`} \input{/etc/passwd} \end{tabular}",
    "[2cm] ± Ärger – “q” ½ -- -0.5",
    "*裁判 Судья κ ☃ 😀 \ud800 \u202e",
)
# What may be in escaped text: commands of ours, and characters that are only themselves.
SAFE = re.compile(
    r"(?:\\[&%$#_{}]|\\text(?:backslash|asciitilde|asciicircum|less|greater|bar|asciigrave)\{\}"
    r"|\$-\$|\$\\(?:kappa|alpha|tau)\$|-\{\}(?=-)|\\anyfont\{[^\x00-\x7f]+\}\{[U+0-9A-F ]+\}"
    r"|[^&%$#_{}\\~^<>|`\n])*"
)


@given(st.text() | st.sampled_from(HOSTILE))
def test_text_is_no_command(text: str) -> None:
    assert SAFE.fullmatch(latex_text(text)), latex_text(text)


def test_the_best_group_is_bold(tmp_path: Path) -> None:
    for name, skill in {"good": 0.9, "same": 0.9, "poor": 0.5}.items():
        write_results(
            tmp_path / name, {"mtrl_judge_a": judged_rows(200, skill, len(name))}, model=name
        )
    view = build_view(build_leaderboard(load_runs([tmp_path]), resamples=200), full=False)
    lines = latex([view.scores]).splitlines()
    assert lines[:4] == [
        r"% needs \usepackage{booktabs}",
        "",
        "% Macro-F1",
        r"\begin{tabular}{lrrrrrrr}",
    ]
    (head,) = [line for line in lines if line.startswith("task")]
    (row,) = [line for line in lines if line.startswith("mtrl")]
    cells = dict(zip(head.split(" & "), row.split(" & "), strict=True))
    assert cells["task"] == r"mtrl\_judge\_a"
    bold = {judge for judge, cell in cells.items() if cell.startswith(r"\textbf{")}
    assert bold == {"good", "same"}


def test_hostile_names_compile(tmp_path: Path) -> None:
    rows = [Row(name, {n: Cell(name, "name", bold=True) for n in HOSTILE}) for name in HOSTILE]
    rows.append(Row("change", {HOSTILE[0]: Cell(-0.5, "difference")}))
    text = latex([Table("\n".join(HOSTILE), "[", rows, group="*")])
    assert text.count(r" \\") == 1 + len(rows)
    assert all(line.count(" & ") == 1 + len(HOSTILE) for line in text.splitlines() if " & " in line)
    assert "$-$0.500" in text
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    unescaped = re.sub(r"\\[{}]", "", code)
    assert unescaped.count("{") == unescaped.count("}")
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
        f"{text}\n\\end{{document}}\n",
        encoding="utf-8",
    )
    for program, without_output in {"pdflatex": "-draftmode", "xelatex": "-no-pdf"}.items():
        if shutil.which(program):
            command = [program, "-halt-on-error", "-interaction=nonstopmode", without_output]
            done = subprocess.run([*command, "page.tex"], cwd=tmp_path, capture_output=True)
            assert done.returncode == 0, done.stdout.decode(errors="replace")[-2_000:]
