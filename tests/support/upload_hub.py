"""A local stand-in for the Hugging Face Hub: as much of its API as uploading takes."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from huggingface_hub import constants

from .servers import Handler, serving

TOKEN = "hf_plantedplantedplanted"
COMMIT = "a" * 40


@dataclass
class UploadHub:
    """What there is, and what arrived."""

    existing: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By repository, what the hub says of it."""
    status: int = 200
    """Of the answer to a commit."""
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    """The path of each commit's request."""
    tokens: set[str] = field(default_factory=set)

    def handler(self) -> type[Handler]:
        hub = self

        class Hub(Handler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if authorization := self.headers.get("Authorization"):
                    hub.tokens.add(authorization)
                path = self.path.partition("?")[0]
                if path == "/api/repos/create":
                    payload = json.loads(body)
                    name = f"{payload['organization']}/{payload['name']}"
                    hub.created.append(payload)
                    known = name in hub.existing
                    hub.existing.setdefault(
                        name, {"private": payload.get("visibility") == "private"}
                    )
                    self.reply({"url": self.address(name)}, 409 if known else 200)
                elif path == "/api/validate-yaml":
                    self.reply({"errors": [], "warnings": []})
                elif "/preupload/" in path:
                    names = [file["path"] for file in json.loads(body)["files"]]
                    modes = {"uploadMode": "regular", "shouldIgnore": False}
                    self.reply({"files": [{"path": name, **modes} for name in names]})
                elif "/commit/" in path:
                    for line in map(json.loads, body.splitlines()):
                        if line["key"] == "file":
                            value = line["value"]
                            hub.files[value["path"]] = base64.b64decode(value["content"])
                    hub.commits.append(path)
                    name = re.sub(r"^/api/\w+/|/commit/.*", "", path)
                    url = f"{self.address(name)}/commit/{COMMIT}"
                    self.reply({"commitUrl": url, "commitOid": COMMIT}, hub.status)
                elif "/branch/" in path:
                    self.reply({})
                else:
                    name = re.sub(r"^/api/\w+/", "", path)
                    self.reply({"id": name, "siblings": [], **hub.existing[name]})

            def address(self, name: str) -> str:
                return f"http://{self.headers['Host']}/datasets/{name}"

            def reply(self, content: object, status: int = 200) -> None:
                self.send(json.dumps(content).encode(), status=status)

        return Hub


@contextmanager
def upload_hub(monkeypatch: pytest.MonkeyPatch, **state: Any) -> Iterator[UploadHub]:
    """Serve an :class:`UploadHub` as this process's hub, with a token for it."""
    hub = UploadHub(**state)
    with serving(hub.handler()) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
