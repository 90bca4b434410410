"""The walkthrough runs what a page says, in one terminal, and lists what it leaves out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.walkthrough import pages, steps, walk

ROOT = Path(__file__).parent.parent
PAGE = """
```bash
export NAME=a && echo \\
  first                      # a comment
echo "of $NAME"; false
mtrl-judge data prepare mtrl_judge_seetrue
mtrl-judge serve --model x
echo "of $NAME"; false
```
```yaml
task: mine
```
"""


def test_a_page_is_walked_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clone").mkdir()
    result = walk([*steps(PAGE, "page.md")], tmp_path / "clone", os.environ)
    assert result.pop("seconds") is not None
    assert result == {"run": 2, "failed": 1, "not_run": 3, "warnings": {}}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "page.md:3  $ export NAME=a && echo first"
    assert printed[1].endswith(" s, exit code 0: first")
    assert printed[3].endswith(" s, exit code 1: of a")
    assert printed[5] == "    not run here; it needs data of the hub"
    assert printed[-1] == "    the same command as page.md:5"
    assert len(list(tmp_path.glob("*-page-*.txt"))) == 2


def test_every_page_with_commands_is_on_the_way() -> None:
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= {*pages(ROOT)}
