"""A question shows columns; what it could do beyond that is refused before it is compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtrl_judge.common.errors import DataError
from mtrl_judge.judge_tasks.prompts import render_question
from mtrl_judge.judge_tasks.templates import FILTER_NAMES, QuestionError, question_columns

ROW: dict[str, Any] = {
    "text": "a Red <|im_end|> dog",
    "n": 3,
    "rating": 3.14159,
    "tags": ["x", "y"],
    "turns": [{"role": "user", "content": "hi"}, {"role": "bot", "content": "ho"}],
    "answer": {"items": "kept", "text": [" b "]},
    "none": None,
    "many": list(range(200)),
    "long": "z" * 600_000,
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ text | upper }}", "A RED <\u200b|IM_END|> DOG"),
        ("{{ answer.items }} {{ answer['text'][0] | trim }} {{ tags[-1] }}", "kept b y"),
        (
            "{% for t in turns %}\n{{ loop.index }}. {{ t.role }}: {{ t.content }}\n{% endfor %}",
            "1. user: hi\n2. bot: ho",
        ),
        ("{% if n >= 3 and 'x' in tags %}{{ n }}{% else %}few{% endif %}", "3"),
        ("{{ 'high' if rating > -1.5 else 'low' }} {{ rating | round(2) }}", "high 3.14"),
        ("{{ tags | join(', ') }} {{ tags | length }} {{ many | first }}", "x, y 2 0"),
        ("{{ none or 'nothing' }} {{ missing | default('?') }}", "nothing ?"),
        ("{% if none is none %}{{ text | truncate(8, end='…') }}{% endif %}", "a Red…"),
        ("{% raw %}{{ 7 * 7 }}{% endraw %}{# no #}", "{{ 7 * 7 }}"),
    ],
)
def test_what_a_question_may_say(template: str, expected: str) -> None:
    values = {name: ROW[name] for name in question_columns(template) if name in ROW}
    assert render_question(template, values, 0).text == expected


@pytest.mark.parametrize(
    ("template", "part"),
    [
        *((f"{{{{ {text} }}}}", "arithmetic") for text in ("'a' * 9", "2 ** n", "'%d' % n")),
        *((f"{{{{ {text} }}}}", "arithmetic") for text in ("n + 1", "text ~ 'b'", "- n")),
        *((f"{{{{ {text} }}}}", "a call") for text in ("range(9)", "lipsum()", "text.upper()")),
        ("{% for x in range(9) %}{% endfor %}", "a call"),
        ("{{ text[:3] }}", "a slice"),
        ("{{ {'a': 1} }}", "a mapping"),
        ("{{ text | replace('a', 'aa') }}", "the filter replace"),
        ("{{ text | attr('x') }}", "the filter attr"),
        ("{{ tags | join(text) }}", "an argument of join"),
        ("{{ text | truncate(1000000) }}", "an argument of truncate"),
        ("{{ n is divisibleby 2 }}", "the test divisibleby"),
        ("{{ self }}", "the name self"),
        ("{% for x in tags recursive %}{% endfor %}", "a recursive for"),
        ("{% set x = 1 %}", "set is not"),
        ("{% macro m() %}{% endmacro %}", "macro"),
        ("{% with x = 1 %}{% endwith %}", "with"),
        ("{% block x %}{% endblock %}", "block"),
        ("{% filter upper %}{% endfilter %}", "filter"),
        ("{% include 'x' %}", "include"),
        ("{% from 'x' import y %}", "import"),
        ("{% extends 'x' %}", "extends"),
        ("{{ " + "(" * 400 + "1" + ")" * 400 + " }}", "brackets in one another"),
        ("{{ " + "not " * 250 + "n }}", "levels deep"),
        ("{{ n" + ".a" * 50 + " }}", "levels deep"),
        ("{% if n %}" * 2000 + "{% endif %}" * 2000, "longer than"),
        ("{% if n %}{% endif %}" * 100, "words and symbols"),
        ("{{ " + "9" * 6000 + " }}", "text or number of more than"),
        ("{{ text ", "end of template"),
        ("\n\n{{ 1 + 1 }}", "line 3 of the template: arithmetic"),
    ],
)  # fmt: skip
def test_what_it_may_not(template: str, part: str) -> None:
    with pytest.raises(QuestionError, match=r"^line \d") as caught:
        question_columns(template)
    assert part in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("{% for a in many %}{% for b in many %}{% endfor %}{% endfor %}", "passes through loops"),
        ("{% for a in many %}{{ long }}{% endfor %}", "longer than 1,000,000"),
        ("{{ many | join('" + "-" * 90 + "') }}{{ long | join('" + "-" * 90 + "') }}", "join of"),
        ("{% for a in n %}{% endfor %}", "for over int"),
        ("{{ text.upper }}", "no attribute 'upper'"),
        ("{{ text.__class__.__mro__ }}", "no attribute '__class__'"),
        ("{{ lipsum }}", "'lipsum' is undefined"),
        ("{{ text | truncate(1, end='....') }}", "expected length"),
        ("{{ text | round }}", "could not convert"),
        ("{{ none }}", "is null"),
    ],
)
def test_what_ends_while_it_is_rendered(template: str, part: str) -> None:
    with pytest.raises(DataError, match=f"judge.question: .*{part}"):
        render_question(template, ROW, 0)


def test_the_documentation_lists_the_filters() -> None:
    page = Path(__file__).parents[2] / "docs" / "tasks.md"
    listed = page.read_text(encoding="utf-8").split("the filters ", 1)[1].split(".", 1)[0]
    assert sorted(word for word in listed.split("`") if word.isalpha() and word != "and") == sorted(
        FILTER_NAMES
    )
