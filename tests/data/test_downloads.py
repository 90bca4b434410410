"""Images that are web addresses: fetched only when asked for, from public hosts, within limits."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import call
from support.images import image_cell
from support.servers import Handler, serving
from support.tasks import write_yaml

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.data import downloads
from mtrl_judge.data.downloads import Downloads
from mtrl_judge.data.prepare import PreparedTask, PrepareOptions, prepare
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows

ASKED: Counter[str] = Counter()


def image(red: int) -> bytes:
    data: bytes = image_cell(f"#{red:02x}0000")["bytes"]
    return data


class Web(Handler):
    """Every image by its number, and every way in which a server can fail."""

    def answer(self) -> None:
        ASKED[self.path] += 1
        name, _, value = self.path[1:].partition("/")
        getattr(self, f"do_{name}")(value)

    def do_image(self, red: str) -> None:
        self.send(image(int(red)), "image/png")

    def do_to(self, address: str) -> None:
        self.send(b"", status=302, headers={"Location": address})

    def do_loop(self, _: str) -> None:
        self.do_to("/loop/")

    def do_html(self, _: str) -> None:
        self.send(b"<html>", "text/html; charset=utf-8")

    def do_broken(self, _: str) -> None:
        self.send(image(1)[:40], "image/png")

    def do_missing(self, _: str) -> None:
        self.send(b"no", "text/plain", 404)

    def do_empty(self, _: str) -> None:
        self.send(b"", "image/png")

    def do_busy(self, tries: str) -> None:
        if ASKED[self.path] < int(tries):
            self.send(b"", status=503, headers={"Retry-After": "0"})
        else:
            self.send(image(9), "image/png")

    def do_short(self, _: str) -> None:
        """Ends before the length that it has announced."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 100)
        self.close_connection = True

    def do_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(10_000):
            self.wfile.write(b"x" * 10_000)

    def do_slow(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x")
            time.sleep(0.05)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(downloads, "WAIT", 0.01)
    ASKED.clear()
    with serving(Web) as address:
        yield address


def fetched(folder: Path, web: str, *paths: str, limit: float = 1e9) -> Downloads:
    """What is fetched of a server that the user allows."""
    made = Downloads(folder, limit, [web.removeprefix("http://")])
    made.fetch([f"{web}/{path}" for path in paths], lambda *_: None)
    return made


def test_images_are_fetched_once_and_kept(tmp_path: Path, web: str) -> None:
    made = fetched(tmp_path, web, "image/1", "image/2", "image/1", f"to/{web}/image/3", "busy/3")
    assert made.failed == {}
    paths = ("image/1", "image/2", f"to/{web}/image/3", "busy/3")
    assert [made.read(f"{web}/{path}") for path in paths] == [image(n) for n in (1, 2, 3, 9)]
    assert ASKED["/image/1"] == 1
    again = fetched(tmp_path, web, "image/1", "image/4")
    assert ASKED["/image/1"] == 1
    again.write_manifest([f"{web}/image/1", f"{web}/image/4"], tmp_path / "manifest")
    lines = [json.loads(line) for line in (tmp_path / "manifest").read_text().splitlines()]
    assert [(line["url"], line["bytes"]) for line in lines] == [
        (f"{web}/image/{n}", len(image(n))) for n in (1, 4)
    ]


@pytest.mark.parametrize(
    ("path", "why", "tries"),
    [
        ("missing/", "404 Not Found", 1),
        ("html/", "no image but text/html", 1),
        ("empty/", "an empty answer", 1),
        ("busy/9", "503 Service Unavailable", 3),
        ("short/", "RemoteProtocolError: peer closed connection", 3),
        ("endless/", "larger than the limit of 1 MiB", 1),
        ("slow/", "takes more than 0.5 seconds", 3),
        ("to/ftp://example.org/a.png", "ftp address; expected http or https", 1),
        ("to/file:///etc/passwd", "file address; expected http or https", 1),
        ("to/http://127.0.0.1:9/a.png", "127.0.0.1:9 is 127.0.0.1, which is not a public", 1),
        ("to/http://[::1]:9/a.png", "::1:9 is ::1, which is not a public address", 1),
        ("to/http://169.254.169.254/latest", "169.254.169.254, which is not a public", 1),
        ("to/http://[::ffff:10.0.0.1]/a", "which is not a public address", 1),
        ("loop/", "more than 5 redirects", 6),
    ],
)
def test_faults_are_named(
    tmp_path: Path, web: str, path: str, why: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MAX_BYTES", 2**20)
    monkeypatch.setattr(downloads, "MAX_SECONDS", 0.5)
    made = fetched(tmp_path / "folder", web, path)
    assert why in made.failed[f"{web}/{path}"]
    assert ASKED[f"/{path}"] == tries
    with pytest.raises(ValueError, match=r".+"):
        made.read(f"{web}/{path}")
    assert not [*(tmp_path / "folder").iterdir()]


def test_names_are_resolved_here_and_only_public_addresses_are_asked(
    tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public name can mean a private address; one that means both is refused, too."""
    port = int(web.rpartition(":")[2])
    asked: list[str] = []

    stock = socket.getaddrinfo

    def resolved(host: str, *more: Any, **options: Any) -> list[Any]:
        if not host.endswith(".example"):  # of the connection
            return stock(host, *more, **options)
        asked.append(host)
        private = [(2, 1, 6, "", ("127.0.0.1", port))]
        return (
            private if host == "rebound.example" else [(2, 1, 6, "", ("1.1.1.1", port)), *private]
        )

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    made = Downloads(tmp_path, 1e9)
    urls = [f"http://{name}.example:{port}/image/1" for name in ("rebound", "both")]
    made.fetch(urls, lambda *_: None)
    assert {why.partition(" is ")[2] for why in made.failed.values()} == {
        "127.0.0.1, which is not a public address"
    }
    assert sorted(asked) == ["both.example", "rebound.example"]
    assert not ASKED
    # What was resolved is what is connected to, under the name that was asked for.
    allowed = Downloads(tmp_path, 1e9, [f"rebound.example:{port}"])
    allowed.fetch(urls[:1], lambda *_: None)
    assert allowed.failed == {}
    assert asked[2:] == ["rebound.example"]


def test_all_images_together_have_a_limit(tmp_path: Path, web: str) -> None:
    with pytest.raises(JudgeError, match="--download-limit"):
        fetched(tmp_path, web, *(f"image/{n}" for n in range(50)), limit=10 * len(image(1)))
    assert 1 <= len([*tmp_path.iterdir()]) <= 10
    assert fetched(tmp_path, web, *(f"image/{n}" for n in range(50))).failed == {}
    assert max(ASKED.values()) <= 2


def write_table(folder: Path, *urls: str) -> Path:
    """A task and its CSV of addresses; the folder with the CSV."""
    write_yaml(folder, raw="{tables: {test: rows.csv}}")
    source = folder / "raw"
    source.mkdir(exist_ok=True)
    lines = [f"{url},thing {n},{n % 2}\n" for n, url in enumerate(urls)]
    (source / "rows.csv").write_text("image,text,label\n" + "".join(lines))
    return source


def prepared(folder: Path, web: str, **options: Any) -> PreparedTask:
    task = load_judge_task(folder / "my_task.yaml")
    given = {"source": folder / "raw", "private_hosts": (web.removeprefix("http://"),), **options}
    (outcome,) = prepare([task], folder / "root", PrepareOptions(**given), lambda *_: None)
    return outcome


def test_nothing_is_fetched_unless_the_user_asks_for_it(tmp_path: Path, web: str) -> None:
    write_table(tmp_path, f"{web}/image/1", f"{web}/image/2", "https://example.org/a.png")
    with pytest.raises(JudgeError) as caught:
        prepared(tmp_path, web)
    host = web.removeprefix("http://")
    assert f"3 images are web addresses, of {host} (2), example.org (1)" in str(caught.value)
    assert "--download" in str(caught.value)
    assert not ASKED
    assert not (tmp_path / "root").exists()


def test_fetched_images_are_prepared_with_a_record(tmp_path: Path, web: str) -> None:
    urls = [f"{web}/image/{n}" for n in range(200)]
    write_table(tmp_path, *urls, f"{web}/missing/1", f"{web}/broken/")
    outcome = prepared(tmp_path, web, download=True)
    about = outcome.card["downloads"]
    assert (about["addresses"], sum(about["hosts"].values())) == (202, 202)
    assert about["failed"] == {f"{web}/missing/1": "404 Not Found"}
    undecodable = outcome.card["undecodable"]["test"]
    assert undecodable["200 image"] == "404 Not Found"
    assert undecodable.keys() == {"200 image", "201 image"}
    task = load_judge_task(tmp_path / "my_task.yaml")
    rows = load_rows(task, "test", tmp_path / "root").rows
    assert len(rows.undecodable) == 2
    first = JudgeRow.from_doc(rows.dataset[7]).images[0]
    assert first.getpixel((0, 0)) == (7, 0, 0)
    lines = (outcome.folder / "downloads.jsonl").read_text().splitlines()
    assert [json.loads(line)["url"] for line in lines] == sorted(
        [*urls, *about["failed"], f"{web}/broken/"]
    )
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["my_task"]
    assert prepared(tmp_path, web, download=True).existed
    assert ASKED["/image/1"] == 1


def test_the_command_says_what_it_fetched(tmp_path: Path, web: str) -> None:
    write_table(tmp_path, *(f"{web}/image/{n}" for n in range(200)), f"{web}/missing/1")
    words = ("data", "prepare", tmp_path / "my_task.yaml", "--from", tmp_path / "raw")
    words = (*words, "--data-root", tmp_path / "root")
    refused = call(*words, "--download")
    assert "is 127.0.0.1, which is not a public address" in str(refused.exception)
    assert not ASKED
    done = call(*words, "--download", "--private-host", web.removeprefix("http://"))
    assert done.exit_code == 0, done.exception
    assert "images from the web: 201, of which 1 failed" in done.stderr
    assert "row 200 image: 404 Not Found" in done.stderr


def test_too_many_failures_are_an_error_and_a_rerun_goes_on(tmp_path: Path, web: str) -> None:
    urls = [f"{web}/image/{n}" for n in range(20)]
    write_table(tmp_path, *urls, f"{web}/busy/4", f"{web}/missing/1")
    with pytest.raises(JudgeError) as caught:
        prepared(tmp_path, web, download=True)
    message = str(caught.value)
    assert "2 of 22 images could not be downloaded" in message
    assert f"1 × 503 Service Unavailable, such as '{web}/busy/4'" in message
    assert "run the same command again" in message
    assert not (tmp_path / "root" / "my_task").exists()
    with pytest.raises(JudgeError, match="1 of 22 images"):
        prepared(tmp_path, web, download=True)
    assert {ASKED[f"/image/{n}"] for n in range(20)} == {1}
    assert (ASKED["/busy/4"], ASKED["/missing/1"]) == (4, 2)


def test_rows_without_images_can_be_left_out(tmp_path: Path, web: str) -> None:
    write_table(
        tmp_path, f"{web}/missing/1", f"{web}/image/1", f"{web}/missing/2", f"{web}/image/2"
    )
    outcome = prepared(tmp_path, web, download=True, allow_missing=True)
    assert (outcome.card["splits"], outcome.card["left_out"]) == ({"test": 2}, {"test": 2})
    assert outcome.card["undecodable"] == {"test": {}}
    task = load_judge_task(tmp_path / "my_task.yaml")
    rows = load_rows(task, "test", tmp_path / "root").rows.dataset
    assert [row["question"] for row in rows] == ["Is it thing 1?", "Is it thing 3?"]
    write_table(tmp_path, f"{web}/missing/1")
    with pytest.raises(JudgeError, match="no image of its 1 rows"):
        prepared(tmp_path, web, download=True, allow_missing=True, force=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from mtrl_judge.data.prepare import PrepareOptions, prepare
from mtrl_judge.judge_tasks.loading import load_judge_task
folder, host = Path(sys.argv[1]), sys.argv[2]
def die(label, done, total):
    if "downloading" in label and done >= 30:
        os.kill(os.getpid(), signal.SIGKILL)
options = PrepareOptions(source=folder / "raw", download=True, private_hosts=(host,))
list(prepare([load_judge_task(folder / "my_task.yaml")], folder / "root", options, die))
"""


def test_a_killed_download_is_resumed(tmp_path: Path, web: str) -> None:
    write_table(tmp_path, *(f"{web}/image/{n}" for n in range(100)))
    words = [sys.executable, "-c", KILLED, str(tmp_path), web.removeprefix("http://")]
    done = subprocess.run(words, env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "root" / "my_task").exists()
    assert prepared(tmp_path, web, download=True).card["undecodable"] == {"test": {}}
    again = sum(times == 2 for times in ASKED.values())
    assert again <= 8, "only those that were on their way"
    assert max(ASKED.values()) <= 2
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["my_task"]
