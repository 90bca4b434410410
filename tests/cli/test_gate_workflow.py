"""The workflow of docs/ci.md: its steps run as GitHub runs them, on a real judge."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtrl_judge.leaderboard.file import Rows
from mtrl_judge.leaderboard.gate_report import MARK

FILE = Path(__file__).parents[2] / "docs" / "mtrl-judge-gate.yml"
WORKFLOW = yaml.safe_load(FILE.read_text(encoding="utf-8"))
JOBS = WORKFLOW["jobs"]
STEPS = [step for job in ("gate", "comment") for step in JOBS[job]["steps"]]
TASKS = "mtrl_judge_unsafebench,mtrl_judge_mjbench_safety"
# What GitHub puts in the place of each expression of a step's own variables.
VALUES = {
    "${{ github.token }}": "token",
    "${{ github.event.pull_request.number }}": "7",
    "${{ secrets.HF_TOKEN }}": "",
}
# gh writes down what it was called with; the comments it is asked for go through the real filter.
GH = """\
#!/bin/bash
echo "${*//$'\\n'/ }" >> "$CALLS"
while [ $# -gt 0 ]; do
  case "$1" in
    --jq) jq --raw-output "$2" < "$COMMENTS" ;;
    *summary.md) test -s judge-gate/summary.md || exit 1 ;;
  esac
  shift
done
"""


def commented(*authors: str) -> list[dict[str, Any]]:
    return [
        {"id": 40 + index, "user": {"login": author}, "body": f"{MARK}\n### of {author}"}
        for index, author in enumerate(authors)
    ]


class Repository:
    """A folder in which the workflow's steps run, on the tiny judge and without GitHub."""

    def __init__(self, folder: Path, judge: Path, data: Path) -> None:
        self.folder, self.calls = folder, folder / "calls"
        programs = folder / "programs"
        programs.mkdir(parents=True)
        for name, text in (("gh", GH), ("pip", '#!/bin/bash\necho "pip $*" >> "$CALLS"\n')):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        self.environment = {
            **os.environ,
            **WORKFLOW["env"],
            "PATH": os.pathsep.join(path),
            "MODEL_ARGS": f"pretrained={judge},scoring=logprob",
            "TASKS": TASKS,
            "EVAL_FLAGS": "--batch_size 8 --limit 6",
            "GATE_FLAGS": "--alpha 0.3",  # six rows show no less
            "MTRL_JUDGE_DATA": str(data),
            "GITHUB_REPOSITORY": "owner/name",
            "GITHUB_STEP_SUMMARY": str(folder / "page.md"),
            "CALLS": str(self.calls),
            "COMMENTS": str(folder / "comments.json"),
        }

    def run(
        self, comments: list[dict[str, Any]] | None = None, without: tuple[str, ...] = ()
    ) -> dict[str, int]:
        """Run what a pull request runs; exit codes by step, of those that were reached."""
        (self.folder / "comments.json").write_text(json.dumps(comments or []))
        self.calls.write_text("")
        codes: dict[str, int] = {}
        for step in STEPS:
            name = step.get("name", "")
            if "run" not in step or name in without:
                continue
            always = "!cancelled() && steps.gate.outcome != 'skipped'" in step.get("if", "")
            always = always or step in JOBS["comment"]["steps"]
            if ("gate" in codes) if always else not any(codes.values()):
                codes[name] = self.run_step(step["run"], step.get("env", {}))
        return codes

    def run_step(self, script: str, variables: Mapping[str, str]) -> int:
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**self.environment, **{name: VALUES[text] for name, text in variables.items()}},
            capture_output=True,
            text=True,
            check=False,
        )
        print(script, done.stdout, done.stderr, sep="\n")  # shown where the test fails
        return done.returncode

    def remove_reports(self) -> None:
        for name in ("baseline.json", "summary.md", "junit.xml"):
            (self.folder / "judge-gate" / name).unlink()

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


def perfect(entries: Any) -> Any:
    """A baseline as of a judge that is always right."""
    for task in entries["entries"][0]["tasks"].values():
        rows = Rows.unpack(task["rows"])
        task["rows"] = rows.model_copy(update={"verdicts": rows.labels}).packed()
    return entries


def test_the_workflow_asks_for_little_and_pins_what_it_uses() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in JOBS["gate"]
    # The job whose token can write runs nothing of the package, the model or the repository.
    assert JOBS["comment"]["permissions"] == {"pull-requests": "write"}
    assert [step.get("uses", "").split("@")[0] for step in JOBS["comment"]["steps"]] == [
        "actions/download-artifact",
        "",
    ]
    assert [step["name"] for step in STEPS if "HF_TOKEN" in step.get("env", {})] == ["evaluate"]
    # YAML 1.1 reads the key `on` as true.
    assert set(WORKFLOW[True]) == {"pull_request", "push"}, "never pull_request_target"
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert len(used) == 7
    assert all(re.fullmatch(r"actions/[a-z/-]+@[0-9a-f]{40}", action) for action in used)
    for step in STEPS:
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False
    assert "base.sha" in STEPS[1]["with"]["ref"]


@pytest.mark.parametrize("step", [step for step in STEPS if "run" in step], ids=lambda s: s["name"])
def test_steps_are_plain_shell(step: dict[str, Any]) -> None:
    """An expression would be pasted into the script, and with it whatever a branch is named."""
    assert "${{" not in step["run"]
    assert set(step.get("env", {}).values()) <= VALUES.keys()
    assert subprocess.run(["bash", "-n", "-c", step["run"]], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("jq") is None, reason="the stand-in for gh filters with jq")
def test_the_steps_pass_then_fail_with_the_gate(
    tmp_path: Path, random_judge: Path, data_root: Path
) -> None:
    repository = Repository(tmp_path / "repository", random_judge, data_root)
    steps = [step["name"] for step in STEPS if "run" in step]

    first = repository.run()
    assert first == {**dict.fromkeys(steps, 0), "gate": 2}
    assert "--baseline: no target/judge-baseline.json; save one" in repository.read("page.md")
    calls = repository.read("calls").splitlines()
    assert calls[0] == "pip install mtrl-judge"
    assert calls[-1].startswith("pr comment 7 --repo owner/name --body-file judge-gate/summary.md")

    baseline = repository.folder / "target" / "judge-baseline.json"
    baseline.parent.mkdir()
    shutil.copy(repository.folder / "judge-gate" / "baseline.json", baseline)
    own = commented("somebody", "github-actions[bot]", "somebody")
    # The gate writes over nothing; a second evaluation would give the same results.
    repository.remove_reports()
    steps.remove("evaluate")
    passed = repository.run(own, without=("evaluate",))
    assert passed == dict.fromkeys(steps, 0)
    assert "2 tasks: 2 passed, 0 not comparable, 0 failed." in repository.read("page.md")
    assert (
        "api --silent --method PATCH repos/owner/name/issues/comments/41 "
        "--field body=@judge-gate/summary.md"
    ) in repository.read("calls")

    baseline.write_text(json.dumps(perfect(json.loads(baseline.read_text()))))
    repository.remove_reports()
    failed = repository.run(without=("evaluate",))
    assert failed == {**dict.fromkeys(steps, 0), "gate": 1}
    assert "### mtrl-judge gate: failed" in repository.read("page.md")
    assert "<failure" in repository.read("judge-gate/junit.xml")
