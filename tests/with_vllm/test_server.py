"""Training with a vLLM server: the same image tokens, or no run.

A server takes new weights through NCCL only. So it keeps the checkpoint's here, and nothing is
learned.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import vllm_on_cpu
from support.training import environment
from trl.generation.vllm_client import VLLMClient

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.rl.callbacks import StopOnSignal
from mtrl_judge.rl.settings import build_settings
from mtrl_judge.rl.train import build_trainer
from mtrl_judge.rl.vllm_sampling import VLLMSampler

START = 900  # seconds
LIMITS = {"min_pixels": 256, "max_pixels": 1024}  # of the sample's 64 x 64


@pytest.fixture(scope="module")
def port(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with the tiny judge, whose limits on pixels are LIMITS."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    assert vllm_on_cpu  # its environment variables are set
    size = '{"size": {"shortest_edge": 256, "longest_edge": 1024}}'
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "1024", "--logprobs-mode", "processed_logprobs"]
    command += ["--max-logprobs", "-1", "--enable-scale-out", "--mm-processor-kwargs", size]
    output = tmp_path_factory.mktemp("server") / "output.txt"
    with output.open("w") as file:
        server = subprocess.Popen(
            command, env=environment(VLLM_SERVER_DEV_MODE="1"), stdout=file, stderr=file
        )
    try:
        deadline = time.monotonic() + START
        while True:
            assert server.poll() is None, output.read_text()[-3000:]
            assert time.monotonic() < deadline, output.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(2)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def trainer_of(
    sample: Path, tiny: Path, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> Any:
    monkeypatch.setattr(VLLMClient, "init_communicator", lambda self, device: None)
    monkeypatch.setattr(VLLMSampler, "sync_weights", lambda self: None)

    def build(**fields: Any) -> Any:
        values = {
            "model_name_or_path": str(tiny),
            "output_dir": str(tmp_path / "run"),
            "data_root": str(sample),
            "use_vllm": True,
            "vllm_mode": "server",
            "vllm_server_base_url": f"http://127.0.0.1:{port}",
            "per_device_train_batch_size": 16,
            "learning_rate": 0.0,
            "max_steps": 2,
            "validation_items": 4,
            "eval_on_start": False,
            "disable_tqdm": True,
            **fields,
        }
        settings = build_settings("grpo", values, recipe="tiny_cpu")
        loaded = [load_rows(task, "train", settings.data_root) for task in settings.tasks]
        return build_trainer(settings, loaded, StopOnSignal())

    return build


def test_other_limits_on_pixels_stop_the_run_before_it_starts(trainer_of: Any) -> None:
    with pytest.raises(JudgeError) as caught:
        trainer_of(min_pixels=1024, max_pixels=4096)
    assert '--mm-processor-kwargs \'{"size": {"shortest_edge": 1024,' in str(caught.value)


def test_a_server_samples_from_what_is_trained(trainer_of: Any) -> None:
    trainer = trainer_of(**LIMITS)
    trainer.train()
    log = [line for line in trainer.state.log_history if "reward" in line]
    assert len(log) == 2
    for line in log:
        assert line["sampling/sampling_logp_difference/mean"] < 1e-4
    by_server = trainer.validation.run(trainer)
    trainer.use_vllm = False
    assert trainer.validation.run(trainer) == by_server
