"""Files that a stranger could send, each with the command that a user would run on it."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import zipfile
from base64 import b64encode, encodebytes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

YAML = """
task: mine
{keys}
test_split: test
judge:
  kind: {kind}
  role: ood
  dimension: safety
  images: [image]
  question: {question}
  label: {label}
  verdicts: {verdicts}
{judge}
  card: {{license: MIT, gated: false, url: x, citation: y}}
"""
RAW = '  raw: {tables: {test: "*.csv"}, images: {named_by: file, image: image}}'
MARK = "executed"  # a file of this name appears if an attack runs its code


class Attack(NamedTuple):
    """A command, and the harmless one that it is compared with."""

    arguments: Sequence[str]
    baseline: str


def baselines(folder: Path) -> dict[str, Attack]:
    """The commands on harmless files; they succeed."""
    return {
        "yaml": _validate(folder, _yaml()),
        "rows": _rows(folder, {"bytes": _png(), "path": None}),
        "prepare": _prepare(folder, {"images/a.png": _png()}),
    }


def attacks() -> dict[str, Callable[[Path], Attack]]:
    """By name what writes hostile files into an empty folder; its command ends with a message."""
    return {
        **{name: _with_text(text) for name, text in _texts().items()},
        "FIFO": _fifo,
        "device": _device,
        "folder": _folder,
        "1,000 includes": _includes,
        "include of a FIFO": _include_fifo,
        "pickle": _pickle,
        "outputs in a line of 128 MiB": _gzip,
        **{f"rows: {name}": _with_question(name) for name in _QUESTIONS},
        **{f"rows: {name}": _with_parts(parts) for name, parts in _PARTS.items()},
        **{f"cell: {name}": _with_cell(name) for name in _CELLS},
        "rows: 200,000 of one item": _one_item,
        **{f"zip: {name}": _with_member(name) for name in _MEMBERS},
        **{f"table: {name}": _with_rows(name) for name in _TABLES},
        **{f"web: {name}": _with_address(name) for name in _ADDRESSES},
        **{f"parquet: {name}": _with_table(name) for name in HUGE_TABLES},
        **{f"prepare parquet: {name}": _preparing_table(name) for name in HUGE_TABLES},
    }


def _yaml(**parts: str) -> str:
    filled = {
        "keys": "",
        "kind": "pointwise",
        "question": '"Is it safe?"',
        "label": '{column: label, map: {1: "Yes", 0: "No"}}',
        "verdicts": '["Yes", "No"]',
        "judge": "",
    }
    return YAML.format(**{**filled, **parts})


def _texts() -> Mapping[str, str]:
    bomb = "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 9))
    merge = "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 40))
    many = [f"v{i}" for i in range(4000)]
    keys = {
        "aliases in aliases": f"a0: &a0 [{'x, ' * 9}]\n{bomb}",
        "merge keys": f"m0: &m0 {{x: 1}}\n{merge}",
        "6,000 digits": f"repeats: {'9' * 6000}",
        "6,000 hexadecimal digits": f"repeats: 0x{'f' * 6000}",
        "flow lists": f"metadata: {'[' * 10_000}",
        "block lists": f"metadata: {'- ' * 10_000}",
        "explicit keys": f"metadata: {'? ' * 10_000}",
        "repeated keys": "repeats: 1\n" * 9_000,
        "unknown keys": "".join(f"key{i}: 1\n" for i in range(4_900)),
        "anchors": "".join(f"key{i}: &a{i} 1\n" for i in range(4_900)),
        "long text": f"metadata: {{x: {'y' * 250_000}}}\nrepeats: {'z' * 10_000}",
        "too large": "#" * 2**24,
        "tag": f'x: !!python/object/apply:os.system ["touch {MARK}"]',
        "reader of datasets": "dataset_path: text\ndataset_kwargs: {data_files: /etc/passwd}",
        "address": 'dataset_path: "https://example.org/x.parquet"',
        "generation code": "generation_kwargs: {custom_generate: x/y, trust_remote_code: true}",
    }
    questions = {
        "400 parentheses": f"{{{{ {'(' * 400}1{')' * 400} }}}}",
        "2,000 ifs": "{% if x %}" * 2000 + "{% endif %}" * 2000,
        "200 ifs": "{% if x %}{% endif %}" * 200,
        "nots": f"{{{{ {'not ' * 900}x }}}}",
        "conditions": f"{{{{ {'x if x else ' * 900}x }}}}",
        "repeated text": "{{ 'a' * 10**9 }}",
        "power": "{{ 9 ** 9 ** 9 }}",
        "range": "{% for x in range(99999999) %}{{ x }}{% endfor %}",
        "attributes": "{{ x.__class__.__mro__[1].__subclasses__() }}",
        "set": "{% set x = x ~ x %}" * 90,
    }
    return {
        **{name: _yaml(keys=text) for name, text in keys.items()},
        **{f"question: {name}": _yaml(question=f'"{text}"') for name, text in questions.items()},
        "4,000 verdicts": _yaml(verdicts=str(many)),
        "4,000 unknown labels": _yaml(
            label=f"{{column: x, map: {{{', '.join(f'{i}: w{i}' for i in range(4000))}}}}}"
        ),
        "long verdict": _yaml(verdicts=f'["Yes", "{"9" * 6000}"]'),
        "9,000 bins": _yaml(label=f"{{column: x, bins: {[*range(9_000)]}}}"),
        "bins in reverse": _yaml(label=f"{{column: x, bins: {[*range(9_000, 0, -1)]}}}"),
        "lists of one value": _yaml(
            label=f'{{column: x, map: {{"Yes": {[1] * 4_500}, "No": {[1] * 4_500}}}}}'
        ),
        "lists in lists": _yaml(label='{column: x, map: {"Yes": [[1], {a: 1}], "No": [.nan]}}'),
        "tiny steps": _yaml(
            label="{column: x, from: [0, 1]}", kind="score", judge=_scale(1, 10, "1.0e-320")
        ),
        "all numbers": _yaml(
            label="{column: x, from: [-1.0e+308, 1.0e+308]}",
            kind="score",
            judge=_scale("-1.0e+308", "1.0e+308", 1),
        ),
        "4,000 paraphrases": _yaml(judge=f"  paraphrases: {many}"),
        "4,000 entries of each": _yaml(judge=f"  each: {[{'a': 1}] * 4_000}"),
        "4,000 columns of each": _yaml(
            judge=f"  each: [{{{', '.join(f'c{i}: {i}' for i in range(4_000))}}}, {{x: 1}}]"
        ),
        "lists in each": _yaml(judge=f"  each: [{{a: {'[' * 30}1{']' * 30}}}]"),
        "gathered by what it gathers": _yaml(judge=f"  gather: {{by: v1, columns: {many}}}"),
        "files of 4,000 columns": _yaml(
            judge=f"  raw: {{tables: {{test: x}}, images: {{image: x, named_by: "
            f"{{{', '.join(f'c{i}: {i}' for i in range(4_000))}}}}}}}"
        ),
        "not a mapping": "- x\n" * 9_000,
        "not UTF-8": "task: \udcff",
    }


def _scale(low: object, high: object, step: object) -> str:
    return f"  scale: {{min: {low}, max: {high}, step: {step}}}"


def _command(baseline: str, *arguments: object) -> Attack:
    return Attack([*map(str, arguments)], baseline)


def _validate(folder: Path, text: str) -> Attack:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return _command("yaml", "validate", path)


def _with_text(text: str) -> Callable[[Path], Attack]:
    return lambda folder: _validate(folder, text)


def _fifo(folder: Path) -> Attack:
    os.mkfifo(folder / "mine.yaml")
    return _command("yaml", "validate", folder / "mine.yaml")


def _device(folder: Path) -> Attack:
    (folder / "mine.yaml").symlink_to("/dev/zero")
    return _command("yaml", "validate", folder / "mine.yaml")


def _folder(folder: Path) -> Attack:
    (folder / "mine.yaml").mkdir()
    return _command("yaml", "validate", folder / "mine.yaml")


def _includes(folder: Path) -> Attack:
    for number in range(1000):
        (folder / f"{number}.yaml").write_text(f"include: {number + 1}.yaml\n")
    return _validate(folder, _yaml(keys="include: 0.yaml"))


def _include_fifo(folder: Path) -> Attack:
    os.mkfifo(folder / "base.yaml")
    return _validate(folder, _yaml(keys="include: base.yaml"))


class _Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def _pickle(folder: Path) -> Attack:
    file = folder / "x.pkl"
    file.write_bytes(pickle.dumps(_Payload(f"touch {folder / MARK}")))
    keys = f"dataset_path: pandas\ndataset_kwargs: {{data_files: {file}}}"
    return _command("yaml", *_validate(folder, _yaml(keys=keys)).arguments, "--rows", 1)


def _gzip(folder: Path) -> Attack:
    file = folder / "outputs.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "' + b"x" * 2**27 + b'"}', 1))
    return _command("yaml", "score", file, "--task", "mtrl_judge_seetrue")


# Cells of a dataset


def _png(size: tuple[int, int] = (64, 64), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def _rows(folder: Path, cell: object, **parts: str) -> Attack:
    """Validate a task whose data has this image; the folder is the data root."""
    split = folder / "mine" / "test.parquet"
    split.parent.mkdir()
    columns = {
        "image": [cell],
        "label": [1],
        "many": [[*range(2000)]],
        "long": ["x" * 2**20],
        "huge": [[1e308] * 3],
    }
    pq.write_table(pa.table(columns), split)
    command = _validate(folder, _yaml(**parts)).arguments
    return _command("rows", *command, "--rows", 1, "--data-root", folder)


def _outside(folder: Path) -> dict[str, Any]:
    secret = folder / "secret.png"
    secret.write_bytes(_png())
    return {"bytes": None, "path": str(secret)}


def _fifo_cell(folder: Path) -> dict[str, Any]:
    os.mkfifo(folder / "mine.png")
    return {"bytes": None, "path": str(folder / "mine.png")}


_CELLS: Mapping[str, Callable[[Path], object]] = {
    "path outside": _outside,
    "path upwards": lambda folder: {**_outside(folder), "path": "../secret.png"},
    "/dev/zero": lambda _: {"bytes": None, "path": "/dev/zero"},
    "/dev/random": lambda _: {"bytes": None, "path": "/dev/random"},
    "FIFO": _fifo_cell,
    "13,000 × 13,000 pixels": lambda _: {"bytes": _png((13_000, 13_000), "1"), "path": None},
    "EPS": lambda _: {
        "bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n",
        "path": None,
    },
    "empty": lambda _: {"bytes": b"", "path": None},
    "text": lambda _: {"bytes": b"no image", "path": None},
    "path of a million folders": lambda _: "a/" * 2**20,
    "32 MiB of base64": lambda _: "data:image/png;base64," + "A" * 2**25,
    "base64 of 13,000 × 13,000 pixels": lambda _: b64encode(_png((13_000, 13_000), "1")).decode(),
    "lines of base64 without an end": lambda _: encodebytes(_png()).decode()[:-99],
    "no base64": lambda _: "data:image/png;base64," + "!" * 2**20,
}


def _with_cell(name: str) -> Callable[[Path], Attack]:
    return lambda folder: _rows(folder, _CELLS[name](folder))


def _label(path: str) -> str:
    return f'{{column: "{path}", map: {{1: "Yes", 0: "No"}}}}'


_QUESTIONS = {
    "loops": f"{'{% for a in many %}' * 15}{{{{ a }}}}{'{% endfor %}' * 15}",
    "long text again and again": "{% for a in many %}{{ long }}{% endfor %}",
}


def _with_question(name: str) -> Callable[[Path], Attack]:
    return _with_parts({"question": f'"{_QUESTIONS[name]}"'})


def _with_parts(parts: Mapping[str, str]) -> Callable[[Path], Attack]:
    return lambda folder: _rows(folder, {"bytes": _png(), "path": None}, **parts)


_PARTS = {
    "path of 60,000 lists": {"label": _label("many" + "[]" * 60_000)},
    "path of 60,000 keys": {"label": _label("many" + ".x" * 60_000)},
    "image in 60,000 lists": {"judge": f'  candidates: "many{"[]" * 60_000}"'},
    "unknown column of 200,000 characters": {"label": _label("many" + "[" * 200_000)},
    "unknown label of a megabyte": {"label": _label("long")},
    "number of a megabyte": {"label": "{column: long, threshold: 1}"},
    "people's rating of a megabyte": {"judge": "  human: {column: long}"},
    "condition on a megabyte": {"judge": "  where: {long: [x]}"},
    "gathered by a megabyte": {
        "judge": "  gather: {by: long, columns: [image, label]}",
        "label": "{column: label, threshold: 1}",
    },
    "each: path of 60,000 lists": {
        "judge": f'  each: [{{x: {{column: "many{"[]" * 60_000}"}}}}]\n  groups: x'
    },
    "each: unknown column of 200,000 characters": {
        "judge": f'  each: [{{x: {{column: "{"many[" * 40_000}"}}}}]'
    },
    "each: a column of the data": {"judge": "  each: [{long: 1}]"},
    "mean of huge numbers": {"label": "{column: huge, reduce: mean, threshold: 1}"},
}


def _one_item(folder: Path) -> Attack:
    command = _rows(
        folder,
        {"bytes": _png(), "path": None},
        judge="  gather: {by: long, columns: [image, label]}",
    )
    n = 200_000
    table = {"image": [b"x"] * n, "label": [1] * n, "long": ["x" * 9] * n}
    pq.write_table(pa.table(table), folder / "mine" / "test.parquet")
    return command


# Tables and addresses for `data prepare`

_TABLES: Mapping[str, str] = {
    "JSON of 100,000 lists": "[" * 100_000,
    "JSON of 100,000 objects": '[{"file": ' + '{"a":' * 100_000,
    "JSON without an end": '[{"file": "a.png"},' * 1_000_000,
    "JSON of one number": "1",
    "a million columns": json.dumps([{f"c{i}": i for i in range(1_000_000)}]),
    "objects without fields": json.dumps([{"file": {}, "label": {"a": [{}]}}] * 9_000),
    "names of a megabyte": json.dumps([{"file": "a/" * 2**19, "label": 1}] * 20),
    "numbers of 100,000 digits": f'[{{"file": {"9" * 100_000}, "label": 1}}]',
}


def _with_rows(name: str) -> Callable[[Path], Attack]:
    def make(folder: Path) -> Attack:
        raw = RAW.replace("*.csv", "labels.json")
        return _prepare(
            folder, {"images/a.png": _png(), "labels.json": _TABLES[name].encode()}, raw
        )

    return make


_ADDRESSES: Mapping[str, str] = {
    "this machine": "http://127.0.0.1:22/",
    "this machine by name": "https://localhost/",
    "this machine as a number": "http://2130706433/",
    "cloud metadata": "http://169.254.169.254/latest/meta-data/",
    "IPv6 of this machine": "http://[::ffff:127.0.0.1]/",
    "no host": "http:///etc/passwd",
    "line breaks": "http://127.0.0.1/%0d%0aX: y",
    "a megabyte": "http://127.0.0.1/" + "a" * 2**20,
}


def _with_address(name: str) -> Callable[[Path], Attack]:
    def make(folder: Path) -> Attack:
        rows = json.dumps([{"file": _ADDRESSES[name], "label": 1}]).encode()
        raw = RAW.replace("*.csv", "labels.json")
        command = _prepare(folder, {"labels.json": rows}, raw)
        return _command("prepare", *command.arguments, "--download")

    return make


# Archives


def _prepare(folder: Path, members: Mapping[str, bytes], raw: str = RAW) -> Attack:
    with zipfile.ZipFile(folder / "theirs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.csv", "file,label\na.png,1\n")
        for member, data in members.items():
            archive.writestr(member, data)
    path = folder / "prepared.yaml"
    path.write_text(_yaml(judge=raw))
    source = ("--from", folder / "theirs.zip", "--data-root", folder / "root")
    return _command("prepare", "data", "prepare", path, *source)


_MEMBERS: Mapping[str, tuple[dict[str, bytes], str]] = {
    "member upwards": ({"../a.png": b"x"}, RAW),
    "absolute member": ({"/tmp/a.png": b"x"}, RAW),
    "member of 300 MiB": ({"images/a.png": b"\0" * (300 * 2**20)}, RAW),
    "10,000,000,000 archives": (
        {"images/a.png": b"x"},
        RAW.replace("image: image}", 'image: image, archives: {test: "x_{1-9999999999}.zip"}}'),
    ),
    "damaged image": ({"images/a.png": _png()[:40]}, RAW),
}


def _with_member(name: str) -> Callable[[Path], Attack]:
    return lambda folder: _prepare(folder, *_MEMBERS[name])


# Parquet files of less than a megabyte that hold 20 GB


def _repeated(n: int = 20_000) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([b"x" * 2**20]))


def with_footer(file: Path, *numbers: tuple[int, int]) -> None:
    """Replace numbers in the footer by others, which take as many bytes."""

    def encoded(number: int, length: int) -> bytes:
        # Thrift's zigzag varint, and zeros at its end, which readers accept.
        parts = [2 * number >> 7 * place & 127 for place in range(length)]
        return bytes([*(part | 128 for part in parts[:-1]), parts[-1]])

    data = file.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for number, other in numbers:
        before = encoded(number, ((2 * number).bit_length() + 6) // 7)
        assert before in data[footer:]
        data = data[:footer] + data[footer:].replace(before, encoded(other, len(before)))
    file.write_bytes(data)


def _understated(file: Path) -> None:
    HUGE_TABLES["runs of a number"](file)
    with_footer(file, (2**20, 1))  # the values of a row group


HUGE_TABLES: Mapping[str, Callable[[Path], None]] = {
    "one text in all rows": lambda file: pq.write_table(pa.table({"label": _repeated()}), file),
    "one image in all rows": lambda file: pq.write_table(
        pa.table({"image": pa.StructArray.from_arrays([_repeated()], ["bytes"])}), file
    ),
    "long lists of one text": lambda file: pq.write_table(
        pa.table({"many": pa.ListArray.from_arrays([0, 20_000], _repeated())}), file
    ),
    "texts that continue others": lambda file: pq.write_table(
        pa.table({"label": pa.array(["x" * 2**20] * 600)}),
        file,
        use_dictionary=False,
        column_encoding={"label": "DELTA_BYTE_ARRAY"},
    ),
    "compressed pages": lambda file: pq.write_table(
        pa.table({"label": pa.array(["x" * 2**20] * 600)}),
        file,
        use_dictionary=False,
        compression="zstd",
    ),
    "runs of a number": lambda file: pq.write_table(
        pa.table({"label": pa.repeat(1, 100_000_000)}), file
    ),
    "values that the footer leaves out": _understated,
}


def _with_table(name: str) -> Callable[[Path], Attack]:
    def make(folder: Path) -> Attack:
        command = _rows(folder, {"bytes": _png(), "path": None})
        HUGE_TABLES[name](folder / "mine" / "test.parquet")
        return command

    return make


def _preparing_table(name: str) -> Callable[[Path], Attack]:
    def make(folder: Path) -> Attack:
        raw = RAW.replace("*.csv", "*.parquet").partition(", images")[0] + "}"
        command = _prepare(folder, {"images/a.png": _png()}, raw)
        with zipfile.ZipFile(folder / "theirs.zip", "w") as archive:
            HUGE_TABLES[name](folder / "labels.parquet")
            archive.write(folder / "labels.parquet", "labels.parquet")
        return command

    return make
