"""Without a hub, an answer comes after one attempt, whatever is asked of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

SCRIPT = """
from pathlib import Path
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.data.prepare import PrepareOptions, prepare
from mtrl_judge.judge_tasks.loading import find_tasks
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.models.checkpoint import check_config

tasks = find_tasks(["mtrl_judge_unsafebench"])
for ask in (
    lambda: load_rows(tasks[0], "test"),
    lambda: list(prepare(tasks, Path("data"), PrepareOptions(), lambda *_: None)),
    lambda: check_config("owner/model"),
):
    try:
        ask()
    except JudgeError as error:
        print(error)
"""


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []
        threading.Thread(
            target=lambda: [connections.append(server.accept()) for _ in range(99)], daemon=True
        ).start()
        variables = {"HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}"}
        variables |= {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("the hub cannot be reached (http://127.0.0.1:" in line for line in lines)
    assert done.stderr.count("only what is cached is used") == 1
    assert len(connections) == 1
