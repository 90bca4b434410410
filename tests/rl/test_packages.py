"""A package that the settings need is missed before anything is loaded or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.training import GRPO, random_judge, run, small_world, values

from mtrl_judge.common.errors import JudgeError

NEEDS: list[tuple[dict[str, Any], str]] = [
    ({"use_vllm": True}, r"use_vllm: needs vllm, .*; pip install 'mtrl-judge\[gpu\]'"),
    ({"use_liger_kernel": True}, "use_liger_kernel: needs liger_kernel"),
    ({"use_peft": True, "lora_target_modules": ["all-linear"]}, "use_peft: needs peft"),
    ({"load_in_4bit": True}, "load_in_4bit: needs bitsandbytes"),
    ({"accelerate": "zero3"}, "accelerate: needs deepspeed"),
    ({"attn_implementation": "flash_attention_2"}, "needs flash_attn, .*; pip install flash-attn"),
    ({"attn_implementation": "kernels-community/x"}, "attn_implementation: needs kernels"),
    ({"optim": "galore_adamw"}, "optim: galore_adamw: You need to install `galore_torch`"),
    ({"report_to": ["comet_ml"]}, "report_to: needs comet_ml"),
]


@pytest.mark.parametrize(("fields", "part"), NEEDS, ids=[next(iter(f)) for f, _ in NEEDS])
def test_a_missing_package_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: Any, part: str
) -> None:
    monkeypatch.setattr("mtrl_judge.rl.packages.find_spec", lambda name: None)
    out = tmp_path / "run"
    given = values(small_world(base), out, random_judge(base), **GRPO, **fields)
    with pytest.raises(JudgeError, match=part):
        run("grpo", given)
    assert not out.exists()


def test_all_missing_packages_are_named_at_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtrl_judge.rl.packages.find_spec", lambda name: None)
    fields = {"use_vllm": True, "use_peft": True, "report_to": ["wandbb"]}
    given = values(small_world(base), tmp_path / "run", random_judge(base), **GRPO, **fields)
    with pytest.raises(JudgeError) as caught:
        run("grpo", given)
    starts = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert starts == ["use_vllm", "use_peft", "report_to"]
