"""`mtrl_judge.Judge`: its verdicts are an evaluation's, and what it says about mistakes."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Image as ImageFeature
from datasets import load_dataset
from PIL import Image
from support.evaluations import evaluated_samples
from support.images import encode, image_cells, random_image
from support.servers import chat_server
from support.tasks import PAIR, pairs, write_split, write_yaml

from mtrl_judge import Item, Judge
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.loading import find_task, load_shipped_tasks
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.serving.single_items import TaskItems

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = 12
SHIPPED = ["mtrl_judge_seetrue", "mtrl_judge_mjbench_safety", "mtrl_judge_agin_nat_graded"]
# Of tasks that make one item of each row of their data.
ITEM_FOR_ITEM = [t for t in load_shipped_tasks() if not (t.judge.gather or t.judge.each)]


@pytest.fixture(scope="module")
def judge(random_judge: Path) -> Judge:
    return Judge.load(random_judge, max_new_tokens=TOKENS)


@pytest.fixture(scope="module")
def own_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ranking in all cyclic orders and pairs in one order each; their data is in `data`."""
    folder = tmp_path_factory.mktemp("own")
    columns = [f"image{place}" for place in range(3)]
    write_yaml(
        folder,
        "ranked",
        kind="ranking",
        images=f"[{', '.join(columns)}]",
        candidates=f"[{', '.join(columns)}]",
        question="'{{ text }}: <image> <image> <image>'",
        label="{column: scores, best: highest}",
        verdicts='["A", "B", "C"]',
    )
    write_yaml(folder, "hashed", orders="hashed", **PAIR)
    values = {name: image_cells(3, 5 * n) for n, name in enumerate(columns)}
    ranked = {**values, "text": list("abc"), "scores": [[1.0, 2.0, 3.0]] * 3}
    write_split(folder / "data", "ranked", "test", ranked)
    write_split(folder / "data", "hashed", "test", pairs())
    return folder


def data_rows(root: Path, task: str) -> list[dict[str, Any]]:
    """The rows of a task's test split, images encoded."""
    data = load_dataset("parquet", data_files=str(root / task / "test.parquet"), split="train")
    for name, kind in data.features.items():
        if isinstance(kind, ImageFeature):
            data = data.cast_column(name, ImageFeature(decode=False))
    return list(data)


def answers_of(judge: Judge, task: str, rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    judged = judge.score_batch([Item(task, context=row) for row in rows])
    return [
        (answer.text.strip(), answer.verdict, answer.state, answer.probabilities)
        for judgment in judged
        for answer in judgment.answers
    ]


def answers_of_evaluation(samples: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (
            # lmms-eval strips answers.
            sample["text"].partition("\n")[2] if "probabilities" in sample else sample["text"],
            sample["verdict"],
            sample["state"],
            sample.get("probabilities"),
        )
        for sample in samples
    ]


@pytest.mark.slow
@pytest.mark.parametrize("scoring", ["generation", "logprob"])
def test_answers_are_those_of_an_evaluation(
    random_judge: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, scoring: str
) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(data_root))
    given: dict[str, Any] = {"scoring": scoring, "max_new_tokens": TOKENS}
    samples = evaluated_samples(SHIPPED, pretrained=random_judge, **given)
    judge, texts = Judge.load(random_judge, **given), set()
    for task in SHIPPED:
        found = answers_of(judge, task, data_rows(data_root, task))
        expected = answers_of_evaluation(samples[task])
        assert [each[:3] for each in found] == [each[:3] for each in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours[3] == pytest.approx(theirs[3], abs=1e-5)
            texts.add(ours[0])
    assert len(texts) > 3, "prompts differ"


@pytest.mark.slow
def test_orders_are_those_of_an_evaluation(
    own_tasks: Path, random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(own_tasks / "data"))
    samples = evaluated_samples(
        ["ranked", "hashed"], own_tasks, pretrained=random_judge, max_new_tokens=TOKENS
    )
    judge = Judge.load(random_judge, "mtrl_judge", max_new_tokens=TOKENS)
    for task in ("ranked", "hashed"):
        rows = data_rows(own_tasks / "data", task)
        found = answers_of(judge, str(own_tasks / f"{task}.yaml"), rows)
        assert found == answers_of_evaluation(samples[task])


def test_an_item_is_the_same_in_any_form_and_company(judge: Judge) -> None:
    """By columns or in order, decoded, encoded or as base64, alone or in a batch."""
    import base64

    image = random_image(1)
    data = encode(image)
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    task = "mtrl_judge_seetrue"
    expected = judge.score(task, [image], ["a red thing"])
    items = [Item(task, [form], ["a red thing"]) for form in (image, data, url)]
    items.append(Item(task, context={"image": data, "text": "a red thing", "more": 1}))
    others = [Item(task, [random_image(n)], [f"thing {n}"]) for n in range(2, 5)]
    others.append(Item("Is it red?", [image], verdicts=["Yes", "No"]))
    others.append(Item("mtrl_judge_mjbench_safety", [image, random_image(9)], ["a cat"]))
    judged = judge.score_batch([*others, *items])
    assert judged[-4:] == [expected] * 4
    assert [judgment.task for judgment in judged[3:5]] == ["question", "mtrl_judge_mjbench_safety"]
    assert len({judgment.text for judgment in judged[:4]}) > 1


def test_calls_that_wait_together_are_judged_together(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, stock = [], judge.judge
    monkeypatch.setattr(judge, "judge", lambda items: (sizes.append(len(items)), stock(items))[1])
    texts = [f"thing {n}" for n in range(6)]
    task, image = "mtrl_judge_seetrue", random_image(1)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(judge.ascore(task, [image], [text]) for text in texts))

    found = asyncio.run(all_at_once())
    assert sizes == [6]
    assert found == [judge.score(task, [image], [text]) for text in texts]


def test_orders_are_combined(own_tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that prefers a slot contradicts itself; rankings have the order of mean ranks."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    answers = {"a cat": "1", "zebra: ": "A>B>C", "Is it red": "Yes", "wet": "Yes"}
    with chat_server(answers) as (_, arguments):
        url = arguments.partition("base_url=")[2].partition(",")[0]
        judge = Judge.load("m", "openai", base_url=url, style="direct")
        images = [random_image(n) for n in range(3)]
        pair = judge.score("mtrl_judge_mjbench_safety", images[:2], ["a cat"])
        assert (pair.verdict, pair.state) == (None, "null")
        assert pair.reason == "the orders disagree: 1 and 2"
        assert [answer.verdict for answer in pair.answers] == ["1", "1"]
        ranked = judge.score(str(own_tasks / "ranked.yaml"), images, ["zebra"])
        # A>B>C of slots in all three rotations gives every candidate every place once.
        assert (ranked.verdict, len(ranked.answers)) == ("A=B=C", 3)
        single = judge.score("Is it red?", images[:1], verdicts=["Yes", "No"])
        assert (single.verdict, single.confidence) == ("Yes", None)


def test_a_failed_request_is_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr("mtrl_judge.models.chat_client.MAX_RETRIES", 0)
    with chat_server({"wet": "Yes", "Is it red": 500}) as (_, arguments):
        url = arguments.partition("base_url=")[2].partition(",")[0]
        judge = Judge.load("m", "openai", base_url=url)
        found = judge.score("Is it red?", verdicts=["Yes", "No"])
    assert (found.verdict, found.state) == (None, "failed")
    assert "500" in found.reason


@pytest.mark.parametrize("task", ITEM_FOR_ITEM, ids=lambda task: task.short_name)
def test_rows_of_single_items_are_those_of_the_data(task: JudgeTask, data_root: Path) -> None:
    split = task.evaluation_split
    rows = load_rows(task, split, data_root)[0].dataset
    expected = [JudgeRow.from_doc(doc) for doc in rows]
    reader = TaskItems(task)
    items = [reader.columns(Item(task, context=row)) for row in data_rows(data_root, task.task)]
    found = [one.row for rows in reader.rows(items) for one in rows]  # type: ignore[union-attr]
    shown = Counter(map(as_shown, found))
    assert Counter(map(as_shown, expected)) <= shown, "the data may also leave rows out"


def as_shown(row: JudgeRow) -> tuple[object, ...]:
    images = [image.tobytes() for image in row.images]
    return row.question, row.verdicts, row.swapped, *images


def damaged() -> bytes:
    return encode(random_image(1))[:-40]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item("mtrl_judge_seetrue", [b"x"]), "missing 'text'; expected 1 image \\(image\\) and 1"),
        (Item("mtrl_judge_seetrue", [], ["a"]), "missing 'image'; expected 1 image"),
        (Item("mtrl_judge_seetrue", [b"x"] * 2, ["a"]), "images: found 2; expected 1 image"),
        (Item("mtrl_judge_seetrue", [b"x"], ["a"]), "cannot be shown .* not a complete image"),
        (Item("mtrl_judge_seetrue", [damaged()], ["a"]), "cannot be shown to a judge"),
        (Item("mtrl_judge_seetrue", ["http://x/y.png"], ["a"]), "web address .* never opened"),
        (Item("mtrl_judge_seetrue", ["/etc/passwd"], ["a"]), "only the path '/etc/passwd'"),
        (Item("mtrl_judge_seetrue", context={"image": b"x", "txt": "a"}), "did you mean 'txt'"),
        (Item("mtrl_judge_seetru"), "did you mean 'mtrl_judge_seetrue'"),
        (Item("Is it red?"), "needs the verdicts to choose from"),
        (Item("Is it red?", verdicts=["Yes", "yes"]), "can be told apart"),
        (Item("Is it red?", verdicts=["Yes"]), "expected two or more texts"),
        (Item("Is it red?", texts=["a"], verdicts=["Yes", "No"]), "write them into the question"),
        (Item(find_task("mtrl_judge_seetrue"), verdicts=["Yes"]), "those of a task"),
        (Item("Is {{ it }} <image>?", [b"x"], verdicts=["a", "b"]), "cannot be shown"),
    ],
)
def test_mistakes_are_explained(judge: Judge, item: Item, message: str) -> None:
    good = Item("mtrl_judge_seetrue", [random_image(1)], ["a"])
    with pytest.raises(JudgeError, match=message):
        judge.score_batch([item])
    expected = judge.score_batch([good])
    found = judge.judge([item, good])
    assert isinstance(found[0], JudgeError)
    assert found[1:] == expected, "one item's mistake is no other's"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "transformer"}, "unknown backend 'transformer'; did you mean 'transformers'"),
        ({"calibration": "bais"}, "unknown calibration 'bais'; did you mean 'bias'"),
        ({"calibration": "bias"}, "only with scoring=logprob"),
        ({"style": "resoned"}, "did you mean 'reasoned'"),
        ({"min_pixel": 3}, "unknown key 'min_pixel'; did you mean 'min_pixels'"),
        ({"base_url": "x"}, "only with engine=openai"),
    ],
)
def test_wrong_arguments(random_judge: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        Judge.load(random_judge, **arguments)


def test_probabilities_without_validation_data_say_so(
    random_judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    item = Item("mtrl_judge_mjbench_safety", [random_image(1), random_image(2)], ["a cat"])
    with pytest.raises(JudgeError, match='give calibration="none"'):
        Judge.load(random_judge, scoring="logprob").score_batch(
            [Item("mtrl_judge_agin_nat", [random_image(1)])]
        )
    judge = Judge.load(random_judge, scoring="logprob", calibration="none")
    (found,) = judge.score_batch([item])
    assert found.probabilities is not None
    assert found.verdict is not None
    assert (
        found.confidence == found.probabilities[found.verdict] == max(found.probabilities.values())
    )
    assert [answer.calibrated for answer in found.answers] == [False, False]


def test_a_palette_image_with_transparency(judge: Judge) -> None:
    file = io.BytesIO()
    Image.new("P", (40, 40)).save(file, "GIF", transparency=0)
    assert judge.score("Is it white?", [file.getvalue()], verdicts=["Yes", "No"]).text
