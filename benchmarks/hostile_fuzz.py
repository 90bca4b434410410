"""Random damage to everything that is read from strangers: one function, one try."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.data.raw_files import open_source
from mtrl_judge.data.table_files import read_table
from mtrl_judge.judge_tasks.images import DECODE_ERRORS, decode, encoded, fault_of
from mtrl_judge.judge_tasks.loading import shipped_paths
from mtrl_judge.judge_tasks.order_answers import parse_order
from mtrl_judge.judge_tasks.prompts import render_question
from mtrl_judge.judge_tasks.rating_answers import parse_rating
from mtrl_judge.judge_tasks.templates import QuestionError, question_columns
from mtrl_judge.judge_tasks.validate import validate
from mtrl_judge.judge_tasks.verdicts import parse_verdict

VERDICTS = (("Yes", "No"), ("1", "2"), ("1", "2", "Tie"), ("A", "B"), ("1", "2", "3", "4", "5"))
ANSWERS = (
    *("<think>", "</think>", "<answer>", "</answer>", "Yes", "No", "1", "2", "A>B", "[[A]]"),
    *("\\boxed{", "}", '{"verdict": "', '"}', "**", "not ", "Image ", "the first ", "score: "),
    *("\n", " ", ". ", "\u0301", "\ud800", "\x00", "＜answer＞", "İ", "1" * 50, "a" * 200, "/5"),
)
SCALES = ((1, 10), (0, 0.5, 1), (-5, 5), (0, 1e308), (-1e9, 1e9))
RATINGS = (
    *("7", "10", "/10", " out of 10", "7.5", ".5", "-3", "+", "between 3 and 4", "3-4", "~"),
    *(" points", " stars", " on a scale of 1 to 10", "Score: ", "Rating is ", "$", "%", "1,000"),
    *("9" * 9, "9" * 40, "1e5", "nan", "inf", "[[7]]", "\\boxed{7}", '{"score": ', "²", "٧", "½"),
)
CANDIDATES = ("ABC", "12", "abcd", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
ORDERS = (
    *("A", "B", "C", "D", "a > b", " > ", "=", "<", ">>", "->", "→", ", ", " and then ", "; "),
    *("[[", "]]", "[", "]", "(", ")", "{", "1. ", "2) ", "1st place: ", "#1 ", "rank 1. ", "- "),
    *("Ranking: ", "order ", "best to worst ", "worst first: ", "rank them as ", '"ranking": ["'),
    *("image b", "the best image: ", "b is the best", "because ", "such as ", "not ", "if ", "²"),
)
YAMLS = (
    *("&a ", "*a ", "<<: *a\n", "<<: [*a, *a]\n", "!!str ", "!!bool ", "!x ", "{", "}", "[", "]"),
    *("? ", "- ", ": ", ", ", "|\n  ", ">\n  ", "'", '"', "#", "\n", "\n  ", "---\n", "%YAML 9\n"),
    *("0x_", "1:59:59", ".inf", "2001-99-99", "=", "~", "\t", "\x00", "9" * 200, "judge:"),
    *("include: ", "verdicts: [1, 2]\n", "label: {threshold: x}", "question: ", "map: "),
)
TEMPLATES = (
    *("{{ ", " }}", "{% if ", " %}", "{% endif %}", "{% for x in ", "{% endfor %}", "{% else %}"),
    *("text ", "xs ", "d.a ", "d['items'] ", "x ", "loop.index ", "loop ", "none ", "1 ", "-1 "),
    *("'a' ", "| join(',') ", "| first ", "| round(2) ", "| int ", "| truncate(9) ", "is none "),
    *("== ", "in ", "not ", "and ", "or ", "if ", "else ", "| default(1) ", "(", ")", "[", "]"),
    *(".", "* ", "** 9", "~ ", "range(9)", "{% set x=1 %}", "{# ", " #}", "{% raw %}", "<image>"),
)
ROW = {"text": "some text", "xs": ["a", 1, None, 2.5], "d": {"a": {"b": []}, "items": "x"}}
TABLE = json.dumps(
    [
        {
            "file": f"{i}.png",
            "label": i / 2,
            "parts": [{"text": "é", "image": None}] * i,
            "m": {"x": i},
        }
        for i in range(5)
    ]
)
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")


class Fuzzer:
    """Tries of one seed.

    Attributes:
        tries: by name; each raises only what is not documented.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.random, self.folder = Random(seed), folder
        self.yamls = [path.read_text(encoding="utf-8") for path in shipped_paths()]
        self.images = [_image(name) for name in FORMATS]
        self.archive = _archive(self.images)
        self.tries: dict[str, Callable[[], None]] = {
            "verdict": self._verdict,
            "rating": self._rating,
            "order": self._order,
            "YAML": self._yaml,
            "template": self._template,
            "image": self._image,
            "archive": self._archive,
            "table": self._table,
        }

    def _pieces(self, pieces: Sequence[str], most: int) -> str:
        return "".join(self.random.choices(pieces, k=self.random.randrange(most)))

    def _damaged(self, data: bytes) -> bytes:
        """Bytes that are changed, cut out, doubled or cut off at the end."""
        damaged = bytearray(data)
        for _ in range(self.random.randrange(1, 8)):
            start = self.random.randrange(len(damaged) or 1)
            end = start + self.random.randrange(16)
            match self.random.randrange(4):
                case 0:
                    damaged[start:end] = self.random.randbytes(end - start)
                case 1:
                    del damaged[start:end]
                case 2:
                    damaged[start:start] = damaged[start:end]
                case 3 if self.random.random() < 0.2:
                    del damaged[start:]
        return bytes(damaged)

    def _verdict(self) -> None:
        parse_verdict(self._answer(ANSWERS), self.random.choice(VERDICTS))

    def _rating(self) -> None:
        parse_rating(self._answer((*RATINGS, *ANSWERS)), self.random.choice(SCALES))

    def _order(self) -> None:
        parse_order(self._answer((*ORDERS, *ANSWERS)), [*self.random.choice(CANDIDATES)])

    def _answer(self, pieces: Sequence[str]) -> str:
        return self._pieces(pieces, 60) * self.random.choice((1, 1, 1, 200))

    def _yaml(self) -> None:
        text = self.random.choice(self.yamls)
        for _ in range(self.random.randrange(1, 6)):
            start = self.random.randrange(len(text) + 1)
            end = start + self.random.choice((0, 0, 1, 30))
            text = text[:start] + self._pieces(YAMLS, 8) + text[end:]
        path = self.folder / "fuzzed.yaml"
        path.write_text(text, encoding="utf-8")
        with suppress(JudgeError):
            validate(path)

    def _template(self) -> None:
        text = self._pieces(TEMPLATES, 30)
        with suppress(QuestionError, JudgeError):
            question_columns(text)
            render_question(text, ROW, 1)

    def _image(self) -> None:
        data = self._damaged(self.random.choice(self.images))
        with suppress(*DECODE_ERRORS):
            data = encoded({"bytes": data, "path": None})
            fault_of(data)
            decode(data)

    def _archive(self) -> None:
        path = self.folder / "fuzzed.zip"
        path.write_bytes(self._damaged(self.archive))
        try:
            files = open_source(path, self.folder / "spool")
        except JudgeError:
            return
        for name in files.sizes:
            with suppress(ValueError):
                files.read_image(name)
        files.close()

    def _table(self) -> None:
        path = self.folder / "fuzzed.json"
        text = self.random.choice((TABLE, TABLE[1:-1].replace("}, {", "}\n{")))
        path.write_bytes(self._damaged(text.encode()))
        with suppress(JudgeError):
            for batch in read_table([path], {}, in_memory=True).batches():
                pq.write_table(pa.Table.from_batches([batch]), self.folder / "fuzzed.parquet")


def _image(file_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((48, 32), 64).convert("RGB").save(buffer, file_format)
    return buffer.getvalue()


def _archive(images: Sequence[bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, image in enumerate(images):
            archive.writestr(f"images/{number}", image)
    return buffer.getvalue()
