"""A hub of one's own: as much of its HTTP interface as reading a dataset's files takes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from .replicas import files_of

COMMIT = f"c493721{'0' * 33}"  # as pinned for ImageReward
NEWER = "0" * 40
JSON = "application/json"


@contextmanager
def hub(repositories: dict[str, Path], gated: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Serve folders as datasets of a revision each; its address, and the list of files fetched."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            for name, folder in repositories.items():
                about_it = f"/api/datasets/{name}"
                if path == f"{about_it}/commits/main":
                    date = "2024-01-01T00:00:00.000Z"
                    more = {"authors": [], "date": date, "title": "", "message": ""}
                    commits = [{"id": commit, **more} for commit in (NEWER, COMMIT)]
                    return self.send(json.dumps(commits).encode(), body, JSON)
                asked = re.fullmatch(f"{about_it}(?:/revision/([0-9a-f]{{40}}))?", path)
                if asked:
                    commit = asked[1] or NEWER
                    siblings = [
                        {"rfilename": file, "size": place.stat().st_size}
                        for file, place in files_of(folder)
                    ]
                    about = {"id": name, "sha": commit, "siblings": siblings, "tags": []}
                    return self.send(json.dumps(about).encode(), body, JSON)
                prefix = f"/datasets/{name}/resolve/"
                if path.startswith(prefix):
                    if name in gated:
                        headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it"}
                        return self.send(b"{}", body, JSON, 403, headers)
                    commit, file = path.removeprefix(prefix).split("/", 1)
                    data = (folder / file).read_bytes()
                    if body:
                        fetched.append(file)
                    kind = "application/octet-stream"
                    return self.send(data, body, kind, headers={"X-Repo-Commit": commit})
            return self.send(b"{}", body, JSON, 404)

        def send(
            self,
            data: bytes,
            body: bool,
            kind: str,
            status: int = 200,
            headers: dict[str, str] | None = None,
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        thread.join()
