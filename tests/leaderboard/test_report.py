"""The HTML report and the plots: whole, of the data alone, and safe whatever the data says."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from support.browser import open_chromium, soon
from support.images import image_cell
from support.results import sample, write_results
from support.tasks import write_split, write_yaml

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.loading import find_task, load_judge_task
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.leaderboard.board import Leaderboard, build_leaderboard
from mtrl_judge.leaderboard.file import entries_of, write_entries
from mtrl_judge.leaderboard.formats import one_line
from mtrl_judge.leaderboard.plots import write_plots
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.report import MAX_BYTES, readable, render_report
from mtrl_judge.leaderboard.samples import select_items
from mtrl_judge.leaderboard.tables import Cell, Row, Table
from mtrl_judge.leaderboard.view import build_view

NASTY = (
    "<script>document.title = 'owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "{{7*7}}{% raw %}",
    "$\\alpha$ \\frac{",
    "]]><!-- --> </style></title>",
    "javascript:alert(1) 😀 \u2028\u202e\u0000 & &lt;",
)
ALL = " ".join(NASTY) + "\ud800"
IMAGE = '<img src="data:image/webp'
FORMED = "<think>{}</think><answer>{}</answer>"


# A judge is a function from a row to its answer


def always_correct(row: Mapping[str, Any]) -> str:
    return FORMED.format("It is plain to see.", row["label"] or row["verdicts"][0])


def always_first(row: Mapping[str, Any]) -> str:
    return FORMED.format("The first.", row["verdicts"][0])


def sometimes_without_verdict(row: Mapping[str, Any]) -> str:
    n = int(re.sub(r"\D", "", row["item_id"]) or 0)
    return "I cannot say." if n % 3 == 0 else FORMED.format("Well.", row["verdicts"][n % 2])


def write_run(
    folder: Path, name: str, tasks: Mapping[str, tuple[dict[str, Any], list[dict[str, Any]]]]
) -> None:
    """The files of one run; of each task what the results say of it, and its samples."""
    write_results(
        folder,
        {task: rows for task, (_, rows) in tasks.items()},
        model=name,
        date=f"2026010{len(name) % 9}_030405",
        about={task: about for task, (about, _) in tasks.items()},
        model_source=NASTY[1],
    )


def judged(task: JudgeTask, root: Path, judge: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What results say of a task whose data is there, and a judge's samples of it."""
    from mtrl_judge.judge_tasks.verdicts import parse_verdict

    rows, record = load_rows(task, "test", root)
    about = {
        **record,
        "kind": task.judge.kind,
        "verdicts": list(task.judge.verdicts),
        "role": task.judge.role,
        "paired": task.paired,
        "style": "reasoned",
        "dimension": task.judge.dimension,
        "versions": {"lmms-eval": "0.7.3"},
    }
    samples = []
    for row in rows.dataset.with_format(None):
        text = judge(row)
        verdict = parse_verdict(text, row["verdicts"])
        samples.append(
            {
                **{name: row[name] for name in ("item_id", "label", "pair_id", "cluster")},
                "order": None if row["pair_id"] is None else "BA" if row["swapped"] else "AB",
                "verdict": verdict.value,
                "well_formed": verdict.well_formed,
                "text": text,
                "input": "what the samples say was asked",
            }
        )
    return about, samples


JUDGES = {"owner/right": always_correct, "first": always_first, "unsure": sometimes_without_verdict}
TASKS = ("mtrl_judge_unsafebench", "mtrl_judge_seetrue", "mtrl_judge_mjbench_safety")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """Three judges on two pointwise tasks and one of pairs in both orders."""
    folder = tmp_path_factory.mktemp("results")
    for index, (name, judge) in enumerate(JUDGES.items()):
        tasks = {task: judged(find_task(task), data_root, judge) for task in TASKS}
        write_run(folder / str(index), name, tasks)
    return folder


@pytest.fixture(scope="module")
def nasty_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every text of a results file comes from somebody else."""
    folder = tmp_path_factory.mktemp("nasty")
    verdicts = ['"><b>Yes', "$No$"]
    about = {
        **dict.fromkeys(("source", "revision", "style", "scoring", "split", "dimension"), ALL),
        "verdicts": verdicts,
        "role": "train",
        "fingerprint": NASTY[1],
        "versions": {NASTY[0]: NASTY[4]},
    }
    for index, name in enumerate((NASTY[0], NASTY[1], NASTY[5])):
        rows = [
            sample(
                n,
                verdicts[n % 2],
                None if n == 3 else verdicts[(n + index) % 2],
                item_id=f"{n} {ALL}",
                text=FORMED.format(ALL, ALL) if n % 2 == 0 else ALL,
                input=f"{ALL} {n}",
                probabilities={verdicts[0]: 0.25, verdicts[1]: 0.75},
                resps=[[ALL, "no", ALL]],
            )
            for n in range(4)
        ]
        names = ['x"><img src=y onerror=alert(1)>', "{{7*7}} $x$ 😀"]
        tasks = {names[0]: (about, rows), names[1]: ({**about, "role": "ood"}, rows)}
        write_run(folder / str(index), name, tasks)
    return folder


def board_of(folder: Path, **settings: Any) -> Leaderboard:
    return build_leaderboard(load_runs([folder]), resamples=300, **settings)


def page_of(board: Leaderboard, **settings: Any) -> str:
    return render_report(board, build_view(board, full=True), **settings)


NASTY_TABLE = Table(
    NASTY[0], NASTY[2], [Row(NASTY[5], {NASTY[1]: Cell(NASTY[4])}), Row("b", {})], note=NASTY[1]
)


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and its text by element."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open_tags = [""]
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open_tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while tag in self.open_tags and self.open_tags.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open_tags[-1], data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "".join(text for tag, text in self.texts if tag not in ("script", "style"))


# The page


def test_data_stays_text(nasty_results: Path) -> None:
    board = board_of(nasty_results)
    view = build_view(board, full=True)
    found = render_report(board, view._replace(analyses=[*view.analyses, NASTY_TABLE]))
    page = Page(found)
    assert len(page.named("script")) == 1
    assert not page.named("b")
    assert all(str(attrs["src"]).startswith("data:image/svg+xml") for attrs in page.named("img"))
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    for text in NASTY:
        assert readable(text) in page.text
    assert "49" not in re.sub(r"\d*\.\d+|\[.*?\]", "", page.text).split()
    found.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", found)


def test_a_page_loads_nothing_and_only_its_own_script_may_run(results: Path) -> None:
    found = page_of(board_of(results))
    page = Page(found)
    loads = ("src", "href", "xlink:href", "action", "data", "poster", "srcset", "background")
    addresses = [attrs[name] or "" for _, attrs in page.elements for name in loads if name in attrs]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    style = "".join(text for tag, text in page.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [o["content"] for o in page.named("meta") if o.get("http-equiv")]
    (script,) = [text for tag, text in page.texts if tag == "script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline';")
    assert f"script-src 'sha256-{digest}'" in policy
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    pointed = {address[1:] for address in addresses if address.startswith("#")}
    assert pointed <= set(ids)


def test_a_page_says_what_was_evaluated(results: Path, data_root: Path) -> None:
    board = board_of(results, seed=5)
    text = Page(page_of(board)).text
    for said in (
        *("owner/right", "first", "unsure", "2026-01-02 03:04", "0.7.3", "seed 5", "300"),
        *(run.tasks[task].metadata["fingerprint"] for run in board.runs for task in TASKS),
        *("Confusion matrices", "Pairs of judges", "Where judges disagree", "What was evaluated"),
        "majority-class baseline",
    ):
        assert said in text, said
    (inside, _) = board.means
    assert f"{inside.estimate('right', 'macro_f1').value:.3f}" in text


def test_a_page_is_accessible(results: Path) -> None:
    page = Page(page_of(board_of(results)))
    assert len(page.named("table")) == len(page.named("caption"))
    assert all(attrs.get("scope") for attrs in page.named("th"))
    assert all(attrs.get("alt") for attrs in page.named("img"))
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert all(below <= above + 1 for above, below in pairwise(headings))


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(
    results: Path, data_root: Path, tmp_path: Path
) -> None:
    for seed in ("1", "2"):
        out = tmp_path / seed
        words = ("--format", "html", "--out", out / "page.html", "--plots", out)
        words += ("--data-root", data_root, "--resamples", "300")
        subprocess.run(
            [Path(sys.executable).with_name("mtrl-judge"), "leaderboard", results, *words],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / seed).iterdir()} for seed in "12"
    )
    assert first == second
    assert len(first) == 10


def test_a_page_stays_below_its_size_limit(
    results: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(data_root))
    board = board_of(results)
    whole = page_of(board)
    size = len(whole.encode())
    assert size < MAX_BYTES
    images = whole.count(IMAGE)
    assert images == 6 + 6 + 2 * 3
    less = page_of(board, max_bytes=size - 1_000)
    assert len(less.encode()) < size - 1_000
    assert 0 < less.count(IMAGE) < images
    assert re.search(r"Images are shown for only \d items of each task", less)
    with pytest.raises(JudgeError, match="3 judges on 3 tasks exceeds 0 MB"):
        page_of(board, max_bytes=10_000)


def test_long_texts_are_truncated_in_the_middle(tmp_path: Path, data_root: Path) -> None:
    def talks(row: Mapping[str, Any]) -> str:
        return "BEGIN " + "&" * 1_000_000 + " <END>"

    task = "mtrl_judge_unsafebench"
    write_run(tmp_path / "run", "long", {task: judged(find_task(task), data_root, talks)})
    found = page_of(board_of(tmp_path))
    assert len(found.encode()) < MAX_BYTES
    assert "994,012 characters left out" in found
    assert "BEGIN &amp;" in found
    assert "&lt;END&gt;" in found


def test_no_plot_is_overwritten_without_force(results: Path, tmp_path: Path) -> None:
    board = board_of(results / "0", tasks=["mtrl_judge_seetrue"])
    svg = tmp_path / "scores.svg"
    svg.write_text("mine")
    with pytest.raises(JudgeError, match=r"scores.svg: already exists"):
        write_plots(board, svg.parent, force=False)
    assert [file.name for file in svg.parent.iterdir()] == ["scores.svg"]
    assert svg in write_plots(board, svg.parent, force=True)


def test_one_judge_on_one_task_has_a_page(results: Path) -> None:
    board = board_of(results / "0", tasks=["mtrl_judge_seetrue"])
    text = Page(page_of(board)).text
    assert "1 judge on 1 task" in text
    assert "Pairs of judges" not in text


def test_a_leaderboard_file_alone_gives_a_page(results: Path, tmp_path: Path) -> None:
    """With the scores of the runs; without rows, with no section that would be empty."""
    board = board_of(results)
    whole = Page(page_of(board))
    for rows in (True, False):
        file = tmp_path / "alone" / f"{rows}.json"
        file.parent.mkdir(exist_ok=True)
        write_entries(entries_of(board, rows=rows), file, force=False)
        page = Page(page_of(build_leaderboard(load_runs([file]), resamples=300)))
        sections = {attrs["id"] for attrs in page.named("section") if "id" in attrs}
        assert {"scores", "means", "evaluated"} <= sections
        assert ("items" in sections) is ("confusion" in sections) is rows
        assert sections <= {attrs.get("id") for attrs in whole.named("section")}
        (inside, _) = board.means
        assert f"{inside.estimate('right', 'macro_f1').value:.3f}" in page.text
        if not rows:
            assert not re.search(r"\d of \d+ items", page.text)


# Items


def test_the_most_informative_items_come_first(results: Path) -> None:
    runs = load_runs([results])
    by_task = {found.task: found for found in select_items(runs, TASKS, limit=20)}
    pairs = by_task["mtrl_judge_mjbench_safety"]
    assert (len(pairs.items), pairs.of) == (3, 3)
    assert all("flipped" in item.flags["first"] for item in pairs.items)
    assert all("flipped" not in item.flags["right"] for item in pairs.items)
    tiers = [
        (not item.disagreed, not any(item.flags.values()))
        for item in by_task["mtrl_judge_seetrue"].items
    ]
    assert tiers == sorted(tiers)
    (limited,) = select_items(runs, TASKS[:1], limit=2)
    kinds = [{flag for flags in item.flags.values() for flag in flags} for item in limited.items]
    assert kinds[0] != kinds[1], "each combination takes its turn"
    assert limited.of == 6


def test_reasoning_is_separated_from_the_verdict(results: Path) -> None:
    (found,) = select_items(load_runs([results / "2"]), TASKS[:1])
    answers = [order.answers["unsure"] for item in found.items for order in item.orders]
    verdicts = {answer.parts: answer.sample.record.verdict for answer in answers}
    assert verdicts.pop(("", "I cannot say.")) is None
    assert verdicts == {("Well.", verdict): verdict for verdict in verdicts.values()}


def color(address: str) -> tuple[int, int, int]:
    image = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB")
    assert max(image.size) <= 160
    return image.getpixel((image.width // 2, image.height // 2))  # type: ignore[return-value]


def test_images_are_those_that_were_judged_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a task of one's attrs, in pairs, with images larger than a thumbnail."""
    root = tmp_path / "data"
    task = load_judge_task(
        write_yaml(
            tmp_path,
            "mine",
            kind="pairwise",
            images="[image_a, image_b]",
            question="'<image> or <image>?'",
            label="{column: label}",
            verdicts='["A", "B"]',
            orders="both",
        )
    )
    red, blue = image_cell("red", (400, 200)), image_cell("blue", (400, 200))
    write_split(root, "mine", "test", {"image_a": [red], "image_b": [blue], "label": [0]})
    write_run(tmp_path / "run", "first", {"mine": judged(task, root, always_first)})
    runs = load_runs([tmp_path / "run"])

    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(root))
    (unknown,) = select_items(runs, ["mine"])
    assert "No images" in unknown.notes[0]
    assert "no shipped task" in unknown.notes[0]
    assert unknown.items[0].orders[0].question == "what the samples say was asked"
    with pytest.raises(JudgeError, match="--include-path: no folder or YAML nowhere"):
        select_items(runs, ["mine"], include=[Path("nowhere")])

    (found,) = select_items(runs, ["mine"], include=[tmp_path])
    assert not found.notes
    (item,) = found.items
    assert [order.swapped for order in item.orders] == [False, True]
    first, second = map(color, item.orders[0].images)
    assert first[0] > 200 > 50 > first[2]
    assert second[2] > 200 > 50 > second[0]

    write_split(root, "mine", "test", {"image_a": [blue], "image_b": [red], "label": [0]})
    (other,) = select_items(runs, ["mine"], include=[tmp_path])
    assert re.search("No images: .* have the fingerprint .*; expected", other.notes[0])


def test_no_data_is_fetched_for_results_of_a_folder(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    found = select_items(load_runs([results]), ["mtrl_judge_unsafebench"])
    assert found[0].notes == ["No images: the rows came from a folder; name it with --data-root"]


# Plots


def test_plots_are_valid_images_and_their_text_is_text(nasty_results: Path, tmp_path: Path) -> None:
    board = board_of(nasty_results)
    files = write_plots(board, tmp_path, force=False)
    names = ("scores", "in_against_out", "confusion", "reliability")
    assert [file.name for file in files] == [
        f"{n}.{form}" for n in names for form in ("png", "svg", "pdf")
    ]
    for file in files:
        if file.suffix == ".png":
            with Image.open(file) as image:
                image.load()
                assert min(image.size) > 200
            continue
        if file.suffix == ".pdf":
            content = file.read_bytes()
            assert content.startswith(b"%PDF")
            assert b"/FontFile2" in content, "TrueType fonts are in the file"
            assert b"CreationDate" not in content
            continue
        text = file.read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        shown = " ".join(root.itertext())
        # A name is as short as it can be: of a path its last parts.
        assert any(one_line(run.name, 26) in shown for run in board.runs)
        assert not {e.tag.rpartition("}")[2] for e in root.iter()} & {"script", "img", "image", "b"}
        assert "<dc:date>" not in text
    assert "$x$ 😀" in (tmp_path / "scores.svg").read_text(encoding="utf-8")
    assert "$No$" in (tmp_path / "confusion.svg").read_text(encoding="utf-8")


# In a browser


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Any]:
    with open_chromium(tmp_path) as driver:
        yield driver


def shown_at(driver: Any, page: Path, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get(page.as_uri())
    assert driver.get_log("browser") == []
    assert driver.execute_script("return performance.getEntriesByType('resource')") == []
    assert "owned" not in driver.title
    wide = driver.execute_script(
        "window.scrollTo(100000, 0);"
        "const page = document.documentElement;"
        "return [scrollX, page.scrollWidth, page.clientWidth];"
    )
    assert wide[0] == 0
    assert wide[1] <= wide[2] <= width


def keep(driver: Any, folder: Path, name: str, width: int) -> None:
    height = driver.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, 12_000), "scale": 1}
    shot = {"captureBeyondViewport": True, "clip": clip}
    found = driver.execute_cdp_cmd("Page.captureScreenshot", shot)["data"]
    (folder / f"{name}-{width}.png").write_bytes(base64.b64decode(found))


VISIBLE = """
return [...document.querySelectorAll("[data-item]")].filter((item) => item.offsetParent !== null)
  .map((item) => [item.dataset.task, item.dataset.disagreed !== undefined,
    [...item.querySelectorAll("[data-judge]")].map((a) => [a.dataset.judge, a.dataset.flags])]);
"""


def choose(driver: Any, *, task: str = "", judge: str = "", flags: Sequence[str] = ()) -> Any:
    """Filter as a person does; what is seen then."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    form = driver.find_element(By.CSS_SELECTOR, "form[data-filters]")
    Select(form.find_element(By.NAME, "task")).select_by_value(task)
    Select(form.find_element(By.NAME, "judge")).select_by_value(judge)
    for box in form.find_elements(By.NAME, "flag"):
        if box.is_selected() != (box.get_attribute("value") in flags):
            box.click()
    seen = driver.execute_script(VISIBLE)
    assert form.find_element(By.TAG_NAME, "output").text.startswith(f"{len(seen)} of ")
    return seen


@pytest.mark.slow
def test_a_page_in_chromium(
    chromium: Any,
    results: Path,
    nasty_results: Path,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Screenshots and a print are left in the test's folder, and where
    MTRL_JUDGE_SCREENSHOTS says."""
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(data_root))
    shots = tmp_path / "shots"
    shots.mkdir()
    for name, folder in (("plain", results), ("nasty", nasty_results)):
        page = tmp_path / f"{name}.html"
        page.write_text(page_of(board_of(folder)), encoding="utf-8")
        for width in (1280, 360):
            shown_at(chromium, page, width)
            keep(chromium, shots, name, width)
        printed = chromium.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
        (shots / f"{name}.pdf").write_bytes(base64.b64decode(printed))
        assert base64.b64decode(printed).startswith(b"%PDF")
        assert chromium.execute_script("return document.querySelectorAll('.item').length") > 5
    if kept := os.environ.get("MTRL_JUDGE_SCREENSHOTS"):
        shutil.copytree(shots, kept, dirs_exist_ok=True)

    shown_at(chromium, tmp_path / "plain.html", 1280)
    loaded = "return [...document.images].every((each) => each.complete && each.naturalWidth > 0)"
    assert chromium.execute_script(loaded)
    everything = choose(chromium)
    assert len(everything) == 15
    assert {task for task, *_ in choose(chromium, task="2")} == {"2"}
    for flag in ("wrong", "null", "flipped"):
        seen = choose(chromium, flags=[flag])
        assert 0 < len(seen) < len(everything)
        assert seen == [each for each in everything if any(flag in f for _, f in each[2])]
    both = choose(chromium, flags=["wrong", "null"])
    assert both == [
        e for e in everything if any({"wrong", "null"} <= {*f.split()} for _, f in e[2])
    ]
    (right,) = [n for n, run in enumerate(board_of(results).runs) if run.name == "right"]
    assert choose(chromium, judge=str(right), flags=["wrong"]) == []
    chromium.find_element("css selector", "button[type=reset]").click()
    wait = "return document.querySelector('output').textContent === '15 of 15 items'"
    assert soon(chromium, wait)

    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not chromium.find_element("css selector", "form[data-filters]").is_displayed()
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    chromium.get((tmp_path / "plain.html").as_uri())
    closed = chromium.find_elements("css selector", "details:not([open])")
    assert not closed, "without a script all is there to read"
