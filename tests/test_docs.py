"""Commands, flags, files, modules and variables that the documentation names exist."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from benchmarks.walkthrough import FENCE
from mtrl_judge.cli.command_line import spelled_alike
from mtrl_judge.cli.examples import EXAMPLES
from mtrl_judge.cli.main import app
from mtrl_judge.common import plain_yaml
from mtrl_judge.judge_tasks import images, loading, parquet_limits, spec, templates
from mtrl_judge.rl.arguments import METHODS, Method
from mtrl_judge.rl.fields import argument_classes

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FLAG = re.compile(r"--[a-zA-Z][\w-]*")
FILE = re.compile(r"[\w.*-]+\.(py|pyi|md|ya?ml|jsonl?|toml|txt|csv|html|jinja|parquet|png|svg|xml)")


@cache
def files() -> dict[str, list[Path]]:
    """The repository's files by their names."""
    by_name: dict[str, list[Path]] = {}
    for path in ROOT.glob("[!.]*/**/*"):
        if path.relative_to(ROOT).parts[0] != "build":
            by_name.setdefault(path.name, []).append(path)
    for path in ROOT.iterdir():
        by_name.setdefault(path.name, []).append(path)
    return by_name


@cache
def source() -> str:
    """The text of the product, in which the names of what it writes stand."""
    suffixes = (".py", ".jinja", ".yaml", ".yml")
    paths = {path for paths in files().values() for path in paths if path.suffix in suffixes}
    paths = {path for path in paths if path.relative_to(ROOT).parts[0] != "tests"}
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(paths))


@cache
def lmms_eval_flags() -> frozenset[str]:
    spec = importlib.util.find_spec("lmms_eval")
    assert spec is not None
    assert spec.origin is not None
    main = Path(spec.origin).with_name("__main__.py")
    return frozenset(re.findall(r'"(--[a-z]\w+)"', main.read_text(encoding="utf-8")))


@cache
def training_flags(method: Method) -> frozenset[str]:
    names = {field.name for arguments in argument_classes(method) for field in fields(arguments)}
    return frozenset({"--recipe", "--launch", "--help", *(f"--{name}" for name in names)})


def options(command: Any) -> set[str]:
    named = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    if command.context_settings.get("ignore_unknown_options"):
        named |= lmms_eval_flags()
    return named | {"--help"}


def commands(command: Any) -> Iterator[Any]:
    """A command and, of a group, all commands in it; typer has its own copy of click's classes."""
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from commands(inner)


@cache
def all_flags() -> set[str]:
    """Every flag of ours, for flags that stand in a sentence without their command."""
    known = {name for command in commands(get_command(app)) for name in options(command)}
    known |= {name for method in METHODS for name in training_flags(method)}
    known |= {spelled_alike(name) for name in known}
    return known | set(FLAG.findall(source()))  # of the launchers that we start


def check_training(words: Sequence[str]) -> Iterator[str]:
    method: Method = "sft" if "sft" in words[:1] else "grpo"
    known = training_flags(method)
    for word in words:
        flag = word.split("=")[0].replace("-", "_").replace("__", "--", 1)
        if word.startswith("--") and flag not in known:
            yield f"train {method}: no flag {word}"


def check_cli(words: Sequence[str]) -> Iterator[str]:
    command: Any = get_command(app)
    path = "mtrl-judge"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words[0].split("|")[0]
        if name in command.commands:
            words = words[1:]
        elif path == "mtrl-judge leaderboard":  # the one group with a default command
            name = "show"
        else:
            yield f"{path}: no command {words[0]}"
            return
        command, path = command.commands[name], f"{path} {name}"
    if path == "mtrl-judge train":
        yield from check_training(words)
        return
    for word in words:
        known = set(map(spelled_alike, options(command)))
        if word.startswith("--") and spelled_alike(word.split("=")[0]) not in known:
            yield f"{path}: no flag {word}"


def check_python(words: Sequence[str]) -> Iterator[str]:
    module, *rest = words
    if module == "mtrl_judge.rl.train":
        yield from check_training(rest)
    elif module == "mtrl_judge":
        yield from check_cli(rest)
    elif module.startswith("benchmarks."):
        path = ROOT / f"{module.replace('.', '/')}.py"
        if not path.is_file():
            yield f"no module {module}"
            return
        known = {*FLAG.findall(path.read_text(encoding="utf-8")), "--help"}
        yield from (
            f"{module}: no flag {word}"
            for word in rest
            if word[:2] == "--" != word and word.split("=")[0] not in known
        )


def check_command(words: Sequence[str]) -> Iterator[str]:
    """What a command line names that does not exist; commands of others are passed over."""
    while words and ("=" in words[0] or words[0] == "export"):
        words = words[1:]
    program = Path(words[0]).name if words else ""
    if program == "mtrl-judge":
        yield from check_cli(words[1:])
    elif program in ("python", "python3", "accelerate") and "-m" in words[:-1]:
        yield from check_python(words[list(words).index("-m") + 1 :])
    elif program == "lmms-eval":
        unknown = {word.split("=")[0] for word in words if word.startswith("--")}
        yield from (f"lmms-eval: no flag {flag}" for flag in sorted(unknown - lmms_eval_flags()))
    elif program == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = {word for word in words[1:] if "=" not in word} - set(targets)
        yield from (f"make: no target {word}" for word in sorted(unknown))


def check_script(script: str) -> Iterator[str]:
    for line in script.replace("\\\n", " ").splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;<>()"):
                yield from check_command(words)
                words = []
            else:
                words.append(word)


def check_python_block(code: str) -> Iterator[str]:
    examples = doctest.DocTestParser().get_examples(code)
    if examples:
        code = "".join(example.source for example in examples)
    for node in ast.walk(ast.parse(code)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("mtrl_judge"):
                yield from check_name(name)


def check_name(name: str) -> Iterator[str]:
    """A dotted name of ours: a module, or what stands in one."""
    module, *attributes = name, *()
    while True:
        try:
            value: object = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            attributes.insert(0, last)
    for attribute in attributes:
        if not hasattr(value, attribute):
            yield f"no name {name}"
            return
        value = getattr(value, attribute)


def check_file(name: str, folder: Path, scripts: str) -> Iterator[str]:
    """A file of the repository, or one that the product or a command of the page writes."""
    if set(name) & set("<>{}$~…") or name.startswith("/"):
        return
    if name == ".github/workflows/mtrl-judge-gate.yml":  # in the reader's repository
        return
    head, _, rest = name.partition("/")
    if rest and (ROOT / head).is_dir() and head not in ("data", "build"):
        if not [*ROOT.glob(name.rstrip("/")), *folder.glob(name.rstrip("/"))]:
            yield f"no file {name}"
    elif FILE.fullmatch(name):
        if not (name in files() or name in source() or name in scripts or "*" in name):
            yield f"no file {name}"
    elif name.endswith(".py") and not any(
        str(path).endswith(f"/{name}") for path in files().get(Path(name).name, [])
    ):
        yield f"no file {name}"


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def check_link(target: str, page: Path) -> Iterator[str]:
    if "://" in target or target.startswith("mailto:"):
        return
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    if not path.exists():
        yield f"no file {target}"
    elif anchor:
        headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if anchor not in map(slug, headings):
            yield f"no heading {target}"


def gaps(text: str, page: Path) -> list[str]:
    """Everything that a page names and that does not exist."""
    blocks = FENCE.findall(text)
    prose = FENCE.sub("", text)
    scripts = "\n".join(code for _, code in blocks)
    missing: list[str] = []
    for language, code in blocks:
        if language in ("bash", "sh", "console"):
            missing += check_script(code)
        elif language == "python":
            missing += check_python_block(code)
    for span in INLINE.findall(prose):
        words = [word for word in span.replace("[", "").replace("]", "").split() if word != "…"]
        if len(words) > 1:
            missing += check_command(words)
        if words and (flag := FLAG.fullmatch(words[0].split("=")[0])):
            missing += [f"no flag {flag[0]}"] * (flag[0] not in all_flags())
        if len(words) == 1:
            missing += check_file(span, page.parent, scripts)
        for name in re.findall(r"\bmtrl_judge(?:\.\w+)+", span):
            missing += [] if FILE.fullmatch(name) else check_name(name)
    for target in LINK.findall(prose):
        missing += check_link(target, page)
    for name in re.findall(r"\bMTRL_JUDGE_[A-Z_]+", text):
        missing += [f"no variable {name}"] * (name not in source())
    return missing


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_what_a_page_names_exists(page: Path) -> None:
    assert gaps(page.read_text(encoding="utf-8"), page) == []


def test_a_wrong_page_is_noticed() -> None:
    page = """
```bash
export MTRL_JUDGE_DATTA=x && mtrl-judge data smaple --seed 1 | tee log
mtrl-judge validate --row 3 mtrl_judge_seetrue  # a comment
mtrl-judge eval --batch_size 8 --batchsize 8
OMP_NUM_THREADS=1 mtrl-judge train grpo --recipe tiny_cpu \\
  --learning_rate 1 --max_stepz 3
accelerate launch --num_processes 2 -m mtrl_judge.rl.train sft --alphaa 4
python -m benchmarks.nothing
make tset
```
```python
from mtrl_judge.judge_tasks import JudgeTask, JudgeTsak
```
See [the guide](guide.md), [rows](tasks.md#no-such-heading), `rl/trainers.py`, `scorer.py`,
`outcome.json`, `--nonsense`, `mtrl-judge leaderbord x`, `mtrl_judge.rl.train.trane`.
These exist: `rl/train.py`, `pyproject.toml`, `--accept-license`, `mtrl-judge gate RESULTS`,
`results.json`, `tasks.md`.
"""
    assert sorted(gaps(page, ROOT / "docs" / "page.md")) == sorted(
        [
            "mtrl-judge data: no command smaple",
            "mtrl-judge validate: no flag --row",
            "mtrl-judge eval: no flag --batchsize",
            "train grpo: no flag --max_stepz",
            "train sft: no flag --alphaa",
            "no module benchmarks.nothing",
            "make: no target tset",
            "no name mtrl_judge.judge_tasks.JudgeTsak",
            "no file guide.md",
            "no heading tasks.md#no-such-heading",
            "no file rl/trainers.py",
            "no file scorer.py",
            "no file outcome.json",
            "no flag --nonsense",
            "mtrl-judge: no command leaderbord",
            "no name mtrl_judge.rl.train.trane",
            "no variable MTRL_JUDGE_DATTA",
        ]
    )


FIGURE = re.compile(
    r"\d ± \d|\d \[[-+]?\d*\.\d+, |times as (?:fast|long)|[Oo]n (?:an|one) H100|simulat|% of cases"
    r"|\d (?:items|documents|rows) a second"
)
COMMAND = re.compile(
    r"python -m benchmarks\.\w|mtrl-judge (?:demo|eval|experiment|leaderboard|train) |`tests/\w"
    r"|\]\(performance\.md"
)


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_measured_figures_stand_with_the_command_that_reproduces_them(page: Path) -> None:
    """In the same section, or in the page's introduction."""
    introduction, *sections = page.read_text(encoding="utf-8").split("\n## ")
    without = {}
    for section in (introduction, *sections):
        figures = FIGURE.findall(re.sub(r"`[^`\n]+`", "", section))
        if figures and not COMMAND.search(" ".join((introduction + section).split())):
            without[section.partition("\n")[0]] = figures
    assert without == {}


def test_every_command_has_examples_that_name_what_exists() -> None:
    paths = {""}
    groups = [("", get_command(app))]
    for path, command in groups:  # grows
        for name, inner in getattr(command, "commands", {}).items():
            paths.add(f"{path} {name}".strip())
            groups.append((f"{path} {name}".strip(), inner))
    assert paths == EXAMPLES.keys()
    examples = [example for examples in EXAMPLES.values() for example in examples]
    assert list(check_script("\n".join(f"mtrl-judge {example}" for example in examples))) == []


def test_the_limits_in_security_md_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    limits = (
        f"{plain_yaml.MAX_BYTES // 2**10} KiB; {plain_yaml.MAX_VALUES:,} values",
        f"{plain_yaml.MAX_DEPTH} levels; numbers of {plain_yaml.MAX_DIGITS} digits",
        f"{spec.MAX_VERDICTS} of {spec.MAX_VERDICT} characters; {spec.MAX_PARAPHRASES}",
        f"{templates.MAX_TEMPLATE:,} characters, {templates.MAX_TOKENS} words and symbols",
        f"{templates.MAX_DEPTH} levels; for each row {templates.MAX_STEPS:,} passes",
        f"{templates.MAX_RENDERED:,} characters",
        f"{images.MAX_IMAGE_PIXELS // 10**6} megapixels, {images.MAX_IMAGE_BYTES // 2**20} MiB",
        f"or {parquet_limits.ALWAYS_ACCEPTED_BYTES // 2**20} MiB",
    )
    assert [limit for limit in limits if limit not in text] == []
    words = {3: "three in a chain", 6: "six formats", 10: "ten times as large"}
    for number in (loading.MAX_INCLUDES, len(images.FORMATS), parquet_limits.MAX_GROWTH):
        assert words[number] in text


def test_the_readme_lists_each_shipped_task_as_its_card_says() -> None:
    """Tasks whose names stand in braces, such as ``agin_{nat,tech}``, share a line."""
    text = DOCS[0].read_text(encoding="utf-8")
    listed: dict[str, list[str]] = {}
    for line in re.findall(r"^\| [^|]* (\| `\w.*) \|$", text, re.MULTILINE):
        names, kind, role, sizes, license_, terms = line.removeprefix("| ").split(" | ")
        start, choices, end = re.fullmatch(r"`(\w+)(?:\{(.*)\}(\w*))?`", names).groups("")
        tasks = [start + choice + end for choice in choices.split(",")]
        of_each = cycle(sizes.split(" / "))
        listed |= {task: [kind, role, next(of_each), license_, terms] for task in tasks}
    for task in loading.load_shipped_tasks():
        judge, size = task.judge, task.judge.card.expects.get(task.evaluation_split)
        assert listed.pop(task.task.removeprefix("mtrl_judge_")) == [
            judge.kind,
            judge.role,
            "–" if size is None else f"{size:,}",
            judge.card.license.split(";")[0],
            "to accept" if judge.card.gated else "–",
        ]
    assert not listed
