"""The report with all items, in a browser: from a file and a static host, with hostile data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from support.browser import open_chromium, sized, soon, static_host
from support.images import image_cell
from support.results import judged_rows, sample, write_results
from support.tasks import write_split, write_yaml

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.facts import check_facts
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, load_rows
from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.bundle import Bundle, write_bundle
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.view import build_view

FAILED = "[LMMS_EVAL_REQUEST_FAILED after 5 retries] timeout"
HOSTILE = (
    "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
    "'); document.title = 'owned'; (' \\'); document.title = 'owned'; // \\ \u2028 \u202e \u0000"
    " </style><!-- {{7*7}} javascript:alert(1) __proto__ 😀 \ud800"
)


def points(seed: int, skill: float) -> list[dict[str, Any]]:
    """Rows with groups, probabilities or votes, missing verdicts and failed requests."""
    rows = judged_rows(120, skill, seed)
    for number, row in enumerate(rows):
        row["group"] = f"group {number % 3}"
        row["input"] = f"Is thing {number} one? It has the mark m{number:03d}."
        if number % 31 == seed:
            row |= {"text": FAILED, "verdict": None, "well_formed": False}
        elif row["verdict"] and seed == 1:
            other = "No" if row["verdict"] == "Yes" else "Yes"
            row["probabilities"] = {row["verdict"]: 0.875, other: 0.125}
    return rows


def hostile(seed: int) -> list[dict[str, Any]]:
    verdicts = [f"<b>Yes {HOSTILE}", "__proto__"]
    return [
        sample(
            n,
            verdicts[n % 2],
            None if n == 3 else verdicts[(n + seed) % 2],
            item_id=f"{n} {HOSTILE}",
            text=f"<think>{HOSTILE}</think><answer>{HOSTILE}</answer>" if n % 2 else HOSTILE,
            input=f"{HOSTILE} {n}",
            group=HOSTILE,
            probabilities={verdicts[0]: 0.25, verdicts[1]: 0.75},
        )
        for n in range(4)
    ]


class Written(NamedTuple):
    folder: Path
    results: Path
    bundle: Bundle


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Two judges on points, on pairs with images in both orders, and on a hostile task."""
    root = tmp_path_factory.mktemp("report")
    data, results = root / "data", root / "results"
    task = load_judge_task(
        write_yaml(
            root,
            "pairs",
            kind="pairwise",
            images="[image_a, image_b]",
            question="'{{ text }}: <image> or <image>?'",
            label="{column: label}",
            verdicts='["1", "2"]',
            orders="both",
            facts="{column: facts}",
        )
    )
    colors = ["red", "blue", "green", "yellow", "black", "white"]
    columns = {
        "image_a": [image_cell(color, (400, 200)) for color in colors],
        "image_b": [image_cell(color, (90, 300)) for color in colors],
        "text": [f"pair of {color}" for color in colors],
        "label": [0, 1] * 3,
        "facts": [
            [
                {"fact": "a wide picture", "instead": []},
                {"fact": "one color", "instead": ["purple"]},
            ]
        ]
        * 6,
    }
    write_split(data, "pairs", "test", columns)
    rows, record = load_rows(task, "test", data)
    about = {**record, "kind": "pairwise", "verdicts": ["1", "2"], "paired": True}
    hostile_about = {"verdicts": [f"<b>Yes {HOSTILE}", "__proto__"]}
    for seed, (model, skill) in enumerate({"owner/good": 0.9, "owner/first": 0.5}.items(), 1):
        pairs = []
        for doc in rows.dataset:
            row = JudgeRow.from_doc(doc)
            verdict = row.label if seed == 1 else "1"
            said = "A wide picture, and it is purple." if row.swapped else "Nothing."
            pairs.append(
                {
                    "item_id": row.item_id,
                    "pair_id": row.pair_id,
                    "order": "BA" if row.swapped else "AB",
                    "label": row.label,
                    "verdict": verdict,
                    "well_formed": True,
                    "text": f"<think>{said}</think><answer>{verdict}</answer>",
                    "input": row.question,
                    "facts": check_facts(said, row.facts).counts._asdict(),
                    "samples": [
                        {"verdict": v, "weight": 1.0, "probabilities": None} for v in ("1", verdict)
                    ],
                }
            )
        tasks = {"points": points(seed, skill), "pairs": pairs, f"x{HOSTILE[:30]}": hostile(seed)}
        # A task's name is part of a file's name.
        tasks = {name.replace("/", "|"): rows_of for name, rows_of in tasks.items()}
        described = dict.fromkeys(tasks, hostile_about) | {"points": {}}
        described["pairs"] = {**about, "max_pixels": 20_000}
        write_results(results / model, tasks, model=model, about=described)
    environment = pytest.MonkeyPatch()
    environment.setenv(DATA_ROOT_VARIABLE, str(data))
    with environment.context():
        board = build_leaderboard(
            load_runs([results]), resamples=200, metric="accuracy", max_failures=0.5
        )
        seen: dict[str, tuple[int, int]] = {}
        bundle = write_bundle(
            board,
            build_view(board, full=True),
            root / "out",
            include=[root / "pairs.yaml"],
            progress=lambda label, done, total: seen.update({label: (done, total)}),
        )
        assert sorted(seen.values()) == [(4, 4), (6, 6), (120, 120)]
    environment.undo()
    return Written(root / "out", results, bundle)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_chromium(tmp_path_factory.mktemp("browser")) as driver:
        sized(driver, 1280)
        yield driver


def samples_of(written: Written, task: str) -> pd.DataFrame:
    """All samples of a task, a line for each judge and row."""
    frames = []
    for file in written.results.glob(f"**/*_samples_{task}.jsonl"):
        lines = file.read_text(encoding="utf-8").splitlines()
        frame = pd.DataFrame([json.loads(line) for line in lines])
        frames.append(frame.assign(judge=file.parent.name))
    return pd.concat(frames, ignore_index=True)


def press(driver: Any, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(key).perform()


def visit(driver: Any, address: str, **state: str) -> None:
    from urllib.parse import urlencode

    driver.get("about:blank")  # a new fragment alone would not load the page again
    driver.get_log("browser")
    driver.get(f"{address}#{urlencode(state)}")
    assert soon(driver, "return document.body.classList.contains('ready')")


def shown(driver: Any) -> int:
    """The number of items that fit the filters."""
    text = driver.execute_script("return document.getElementById('count').textContent")
    return int(text.split()[0].replace(",", ""))


SEEN = """
const texts = (selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent);
const detail = document.getElementById("detail");
return {
  ids: [...document.querySelectorAll(".row:not([hidden])")]
    .sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)
    .map((row) => row.querySelector(".row-id").textContent),
  previews: texts(".row:not([hidden]) .row-text"),
  item: detail.querySelector("h2")?.textContent,
  judges: texts("#detail .answer h4"),
  detail: detail.textContent,
  images: [...detail.querySelectorAll("img")].map((e) => [e.naturalWidth, e.naturalHeight]),
  marks: [...detail.querySelectorAll("mark")].map((e) => [e.className, e.textContent]),
  focus: document.activeElement.id,
};
"""


def seen(driver: Any) -> Any:
    return driver.execute_script(SEEN)


def test_text_is_data_and_names_of_files_are_ours(written: Written) -> None:
    files = [file for file in written.folder.rglob("*") if file.is_file()]
    names = {str(file.relative_to(written.folder)) for file in files}
    data, images = r"data/(index|rows-\d+|items-\d+)\.js", r"images/../\w+(\.s)?\.webp"
    ours = rf"index\.html|report\.(js|css)|{data}|{images}"
    assert all(re.fullmatch(ours, name) for name in names)
    assert written.bundle.items == 120 + 6 + 4
    assert written.bundle.images == 12
    assert written.bundle.size == sum(file.stat().st_size for file in files)
    for file in (written.folder / "data").iterdir():
        text = file.read_text(encoding="utf-8")
        literal = re.fullmatch(
            r"mtrlJudgePart\('([a-z0-9-]+)','((?:[^'\\\n]|\\['\\])*)'\);\n", text
        )
        assert literal, "one call with one string"
        json.loads(literal[2].replace("\\'", "'").replace("\\\\", "\\"))
    page = (written.folder / "index.html").read_text(encoding="utf-8")
    assert "unsafe-inline" not in page
    assert not re.search(r"<script[^>]*>[^<]|\son\w+=|style=", page)
    script = (written.folder / "report.js").read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|fetch\(", script
    )


def test_only_an_older_report_is_replaced(written: Written, tmp_path: Path) -> None:
    board = build_leaderboard(load_runs([written.results]), metric="accuracy", max_failures=1)
    view = build_view(board, full=False)
    out = tmp_path / "out"
    write_bundle(board, view, out)
    (out / "images" / "old").parent.mkdir(exist_ok=True)
    with pytest.raises(JudgeError, match="already exists; choose another path or pass --force"):
        write_bundle(board, view, out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(JudgeError, match="--include-path"):
        write_bundle(board, view, out, include=[tmp_path / "nowhere"], force=True)
    broken = view._replace(labels={})  # fails when all items are written
    with pytest.raises(KeyError):
        write_bundle(board, broken, out, force=True)
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
    write_bundle(board, view, out, force=True)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(JudgeError, match="did not write"):
        write_bundle(board, view, out, force=True)
    assert (out / "thesis.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_strict_page_loads_its_parts_from_a_file_and_from_a_host(
    chromium: Any, written: Written
) -> None:
    """And only these: no other script, no markup from text, no network."""
    tried = """
      const done = arguments[arguments.length - 1];
      const found = [];
      const attempt = (name, what) => { try { what(); found.push(name); } catch { } };
      attempt("markup", () => { document.createElement("p").innerHTML = "<b>x</b>"; });
      attempt("script", () => { document.createElement("script").src = "https://a.org/x.js"; });
      attempt("policy", () => trustedTypes.createPolicy("other", {}));
      const image = new Image();
      image.onload = () => found.push("image");
      image.src = "https://example.org/x.png";
      fetch("https://example.org/").then(() => found.push("network")).catch(() => 0)
        .finally(() => done(found));
    """
    with static_host(written.folder) as host:
        for address in ((written.folder / "index.html").as_uri(), host):
            visit(chromium, address, task="pairs")
            assert soon(chromium, "return document.querySelectorAll('#detail img').length === 2")
            loaded = (
                "return [...document.images].filter((e) => !e.hidden).every((e) => e.naturalWidth)"
            )
            assert soon(chromium, loaded)
            assert soon(chromium, "return document.querySelector('.row-text').textContent !== ''")
            assert chromium.get_log("browser") == []
            now = seen(chromium)
            assert shown(chromium) == 6
            # As the judges saw them: at most 20,000 pixels.
            assert sorted(now["images"]) == [[77, 258], [200, 100]]
            assert "Swapped, the order of the images is 2, 1." in now["detail"]
            # Without "pair of", with which all questions begin.
            assert "red: <image> or <image>?" in now["previews"]
            assert chromium.execute_async_script(tried) == []
            chromium.get_log("browser")


@pytest.mark.slow
def test_filters_count_what_pandas_counts(chromium: Any, written: Written) -> None:
    from selenium.webdriver.common.keys import Keys

    visit(chromium, (written.folder / "index.html").as_uri(), task="points")
    rows = samples_of(written, "points")
    failed = rows.text == FAILED
    rows = rows.assign(
        failed=failed,
        null=rows.verdict.isna() & ~failed,
        wrong=(rows.verdict != rows.label) & ~failed,
    )
    spread = rows[~failed].fillna({"verdict": "none"}).groupby("item_id").verdict.nunique()
    differ = set(spread[spread > 1].index)
    assert shown(chromium) == rows.item_id.nunique() == 120

    def click(name: str) -> None:
        chromium.execute_script("document.getElementById(arguments[0]).click()", name)

    def choose(name: str, text: str) -> None:
        chromium.execute_script(
            "const select = document.getElementById(arguments[0]);"
            "select.value = [...select.options].find((o) => o.text === arguments[1]).value;"
            "select.dispatchEvent(new Event('change', { bubbles: true }));",
            *(name, text),
        )

    def counted(rows: pd.DataFrame) -> Mapping[str, int]:
        return {flag: rows[rows[flag]].item_id.nunique() for flag in ("wrong", "null", "failed")}

    for flag, count in counted(rows).items():
        assert count > 0
        click(f"flag-{flag}")
        assert shown(chromium) == count
        click(f"flag-{flag}")
    click("flag-wrong")
    click("flag-null")
    assert shown(chromium) == rows[rows.wrong & rows.null].item_id.nunique()
    click("flag-null")
    choose("judge", "first")
    assert shown(chromium) == rows[rows.wrong & (rows.judge == "first")].item_id.nunique()
    choose("group", "group 1")
    some = rows[rows.wrong & (rows.judge == "first") & (rows.group == "group 1")]
    assert shown(chromium) == some.item_id.nunique()
    assert {*seen(chromium)["ids"]} <= {*some.item_id}
    click("reset")
    choose("task", "points")
    click("differ")
    assert shown(chromium) == len(differ)
    choose("a", "good")
    choose("b", "first")
    assert shown(chromium) == len(differ), "side by side are the only two"
    assert seen(chromium)["judges"] == ["good", "first"]
    click("reset")

    choose("task", "pairs")
    pairs = samples_of(written, "pairs").pivot(
        index=["judge", "item_id"], columns="order", values="verdict"
    )
    same_place = pairs[pairs.AB == pairs.BA].reset_index().item_id.nunique()
    click("flag-flipped")
    assert shown(chromium) == same_place == 6
    choose("judge", "good")
    assert shown(chromium) == 0
    click("reset")

    choose("task", "points")

    def at_top() -> list[str]:
        chromium.execute_script("document.getElementById('list').focus()")
        press(chromium, Keys.HOME)
        soon(chromium, "return document.querySelector('.row.selected')?.ariaPosInSet === '1'")
        ids: list[str] = seen(chromium)["ids"]
        return ids

    choose("sort", "item id")
    assert at_top()[:3] == sorted({*rows.item_id})[:3]
    choose("sort", "most judges wrong")
    most = set(rows.groupby("item_id").wrong.sum().loc[lambda n: n == 2].index)
    assert {*at_top()[:5]} <= most
    # Ids at once, texts in all parts: the mark is in a question only.
    for wanted, count in {"m017": 1, "item 0001": 10, "It is 55": 1, "no such text": 0}.items():
        chromium.execute_script(
            "const q = document.getElementById('q'); q.value = arguments[0];"
            "q.dispatchEvent(new Event('input'));",
            wanted,
        )
        expected = f"{count} of 130 items"
        assert soon(
            chromium,
            f"return document.getElementById('count').textContent === '{expected}'"
            " && document.getElementById('progress').hidden",
        ), wanted


@pytest.mark.slow
def test_hostile_data_does_nothing(chromium: Any, written: Written) -> None:
    """As text it is all there."""
    visit(chromium, (written.folder / "index.html").as_uri(), q="{{7*7}}")
    assert soon(chromium, "return document.querySelectorAll('#detail .answer').length === 2")
    assert soon(
        chromium, "return document.getElementById('count').textContent === '4 of 130 items'"
    )
    now = seen(chromium)
    assert "<script>document.title = 'owned'</script>" in now["item"]
    assert "</style><!--" in now["detail"]
    assert "\u0000" not in now["detail"]
    assert chromium.execute_script("return document.querySelectorAll('script').length") == 2
    assert (
        chromium.execute_script("return document.querySelectorAll('#detail b, #list b').length")
        == 0
    )
    assert "owned" not in chromium.title
    assert chromium.execute_script("return ({}).label") is None
    press(chromium, "s")
    assert soon(chromium, "return !document.getElementById('scores-view').hidden")
    assert "owned" not in chromium.title
    assert chromium.get_log("browser") == []


@pytest.mark.slow
def test_a_link_restores_the_state_and_keys_work(chromium: Any, written: Written) -> None:
    from selenium.webdriver.common.keys import Keys

    address = (written.folder / "index.html").as_uri()
    visit(chromium, address, task="pairs", sort="id")
    press(chromium, "4")
    press(chromium, "j")
    press(chromium, "j")
    now = seen(chromium)
    assert shown(chromium) == 6
    assert now["item"] == now["ids"][2]
    assert soon(chromium, "return document.querySelectorAll('#detail mark').length > 0")
    now = seen(chromium)
    # Of both judges, in the swapped order only.
    assert now["marks"] == [["right", "A wide picture"], ["wrong", "purple"]] * 2
    assert "Facts: 1 of 2 stated, 1 contradicted" in now["detail"]
    assert "2 of 2 votes" in now["detail"]
    link = chromium.current_url
    assert "show=flipped" in link
    assert "item=" in link

    visit(chromium, link.partition("#")[0], **dict(parse(link)))
    again = seen(chromium)
    assert again["item"] == now["item"]
    assert shown(chromium) == 6
    assert chromium.execute_script("return document.getElementById('flag-flipped').checked")

    press(chromium, "?")
    assert chromium.execute_script("return document.getElementById('help').open")
    press(chromium, Keys.ESCAPE)
    press(chromium, "z")
    text = "return document.getElementById('zoom-text').textContent"
    assert soon(chromium, "return document.querySelector('#zoom-area img').naturalWidth > 0")
    assert re.match(r"(200 × 100|77 × 258) pixels", chromium.execute_script(text))
    press(chromium, "1")
    assert chromium.execute_script(text).endswith("100 %")
    press(chromium, Keys.ESCAPE)
    assert soon(chromium, "return !document.getElementById('zoom').open")
    press(chromium, "/")
    assert seen(chromium)["focus"] == "q"
    press(chromium, "j")  # is typed
    assert seen(chromium)["item"] == now["item"]
    press(chromium, Keys.ESCAPE)
    press(chromium, "x")
    assert shown(chromium) == 130
    chromium.execute_script("document.getElementById('list').focus()")
    press(chromium, Keys.END)
    position = "return document.querySelector('.row.selected')?.getAttribute('aria-posinset')"
    assert soon(chromium, f"{position} === '130'")

    sized(chromium, 390, 844, dark=True)
    visit(chromium, address)
    chromium.execute_script("document.activeElement.blur()")
    wide = "return [document.documentElement.scrollWidth, innerWidth]"
    assert chromium.execute_script(wide) == [390, 390]
    chromium.execute_script("document.querySelector('.row').click()")
    assert soon(chromium, "return document.querySelector('#detail h2')?.checkVisibility()")
    press(chromium, Keys.ESCAPE)
    assert not chromium.execute_script("return document.querySelector('#detail').checkVisibility()")


def parse(link: str) -> list[tuple[str, str]]:
    from urllib.parse import parse_qsl

    return parse_qsl(link.partition("#")[2])
