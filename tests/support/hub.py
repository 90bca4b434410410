"""A local stand-in for the Hugging Face Hub: as much of its API as reading dataset files takes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .replicas import files_of
from .servers import Handler, serving

COMMIT = f"c493721{'0' * 33}"  # as pinned for ImageReward
NEWER = "0" * 40


@contextmanager
def hub(
    repositories: dict[str, Path], gated: tuple[str, ...] = ()
) -> Iterator[tuple[str, list[str]]]:
    """Serve folders as datasets, by repository name.

    Yields:
        The address, and a list to which the name of each downloaded file is added.
    """
    downloaded: list[str] = []

    class Hub(Handler):
        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            for name, folder in repositories.items():
                api, files = f"/api/datasets/{name}", f"/datasets/{name}/resolve/"
                if path == f"{api}/commits/main":
                    commit = {"date": "2024-01-01T00:00:00.000Z", "authors": []}
                    commit |= {"title": "", "message": ""}
                    return self.send_json([{"id": id_, **commit} for id_ in (NEWER, COMMIT)])
                if revision := re.fullmatch(f"{api}(?:/revision/(main|[0-9a-f]{{40}}))?", path):
                    siblings = [
                        {"rfilename": file, "size": location.stat().st_size}
                        for file, location in files_of(folder)
                    ]
                    sha = NEWER if revision[1] in (None, "main") else revision[1]
                    return self.send_json(
                        {"id": name, "sha": sha, "siblings": siblings, "tags": []}
                    )
                if path.startswith(f"{api}/tree/"):
                    return self.send_json(
                        [
                            {
                                "type": "file",
                                "path": file,
                                "size": location.stat().st_size,
                                "oid": hashlib.sha1(location.read_bytes()).hexdigest(),
                            }
                            for file, location in files_of(folder)
                        ]
                    )
                if path.startswith(files) and name in gated:
                    headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it"}
                    return self.send(b"{}", status=403, headers=headers)
                if path.startswith(files):
                    sha, file = path.removeprefix(files).split("/", 1)
                    if not (folder / file).is_file():
                        return self.send(b"", status=404, headers={"X-Error-Code": "EntryNotFound"})
                    if self.command == "GET":
                        downloaded.append(file)
                    return self.send_file((folder / file).read_bytes(), sha)
            return self.send(b"{}", status=404)

        def send_json(self, content: object) -> None:
            self.send(json.dumps(content).encode())

        def send_file(self, data: bytes, sha: str) -> None:
            headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            self.send(data, "application/octet-stream", headers=headers)

    with serving(Hub) as address:
        yield address, downloaded
