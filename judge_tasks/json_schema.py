"""The JSON Schema of a judge task's YAML, by which editors complete and check it."""

from __future__ import annotations

from typing import Any

from mtrl_judge.common.files import json_text

from .spec import JudgeTask

SCHEMA_FILE = "judge-task.schema.json"


def schema_text() -> str:
    """The schema as JSON.

    No field is required, since an included file can have it; ``mtrl-judge validate`` reports those
    that are missing.
    """
    schema = JudgeTask.model_json_schema(by_alias=True)
    del schema["properties"]["path"]
    schema["properties"]["include"] = {
        "type": "string",
        "description": "a YAML file of the same folder, whose keys this file adds to",
    }
    for model in (schema, schema["$defs"]["JudgeSpec"], schema["$defs"]["Card"]):
        model.pop("required", None)
    return json_text({"$schema": "https://json-schema.org/draft/2020-12/schema", **_plain(schema)})


def _plain(node: Any) -> Any:
    """Without the titles that pydantic makes from names, and its internal discriminators."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    # A mapping may be the label rule of several kinds, so that `oneOf` would refuse it.
    return {
        "anyOf" if key == "oneOf" else key: _plain(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str)) and key != "discriminator"
    }
