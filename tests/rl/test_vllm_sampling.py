"""vLLM and the trainer: the same prompts, pixels, weights and log-probabilities, or no run.

``support.vllm_stand_in`` stands for vLLM here; ``tests/with_vllm`` runs vLLM itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from support.images import encode, random_image
from support.judges import FAMILIES
from support.tasks import PAIR, write_split, write_yaml
from support.training import GRPO, guessing_judge, log_of, small_world, swap_verdicts, values
from support.vllm_stand_in import LLM, vllm_stand_in
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.models.pixels import fit_grid, grid_size, with_pixel_limits
from mtrl_judge.rl import vllm_sampling
from mtrl_judge.rl.callbacks import StopOnSignal
from mtrl_judge.rl.sampler_check import SamplerCheck
from mtrl_judge.rl.settings import build_settings
from mtrl_judge.rl.train import build_trainer, train
from mtrl_judge.rl.vllm_sampling import VLLMSampler, check_server, image_tokens

pytestmark = pytest.mark.usefixtures("one_thread")

LIMITS = {"min_pixels": 32 * 32, "max_pixels": 64 * 64}  # the checkpoint's own are 256 x 256
COLOCATE: dict[str, Any] = {
    **GRPO,
    **LIMITS,
    "use_vllm": True,
    "eval_strategy": "no",
    "save_strategy": "no",
    "max_steps": 2,
    "max_completion_length": 6,
    "user_rewards": {"support.training:alternating": 1.0},
    "allow_leaks": True,
}
DIFFERENCE = "sampling/sampling_logp_difference/mean"
RATIOS = [f"sampling/importance_sampling_ratio/{end}" for end in ("min", "max")]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LLM]]:
    with vllm_stand_in(monkeypatch) as made:
        yield made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of pairs whose images have many sizes, a few of them of the same size."""
    root, random = tmp_path_factory.mktemp("world"), Random(0)
    write_yaml(root, "sizes", splits="{validation: {from: train, fraction: 0.25, seed: 0}}", **PAIR)
    write_yaml(root, "one")
    write_yaml(root, "few")
    sides = [(random.randint(28, 300), random.randint(28, 300)) for _ in range(32)]
    cells = [{"bytes": encode(random_image(n, size)), "path": None} for n, size in enumerate(sides)]
    for split, images in (("train", cells[:24]), ("test", cells[24:])):
        n = len(images) // 2
        texts = {name: [f"{name} {i}" for i in range(n)] for name in ("text", "one", "two")}
        columns = {"image0": images[:n], "image1": images[n:], "label": ["a", "b"] * (n // 2)}
        write_split(root / "data", "sizes", split, {**columns, **texts})
        single = {"image": images, "text": list(map(str, range(2 * n))), "label": [0, 1] * n}
        write_split(root / "data", "one", split, single)
        few = {name: column[:4] for name, column in single.items()}
        write_split(root / "data", "few", split, few)
    return root


@pytest.fixture
def run_of(base: Path, world: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Train in colocate mode; the log."""

    def run(task: str = "sizes", **fields: Any) -> list[dict[str, Any]]:
        fields = {**COLOCATE, **fields}
        given = values(world, tmp_path / "run", guessing_judge(base), task, **fields)
        train(build_settings("grpo", given))
        return [line for line in log_of(tmp_path / "run") if DIFFERENCE in line]

    return run


# What the two read


@pytest.mark.parametrize("fields", [{}, {"use_peft": True, "lora_target_modules": ["q_proj"]}])
def test_vllm_reads_what_is_trained(
    engines: list[LLM],
    run_of: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
) -> None:
    trained: list[list[int]] = []
    stock = VLLMSampler.generate

    def generate(self: Any, prompts: list[list[int]], *rest: Any, **named: Any) -> Any:
        trained.extend(prompts)
        return stock(self, prompts, *rest, **named)

    monkeypatch.setattr(VLLMSampler, "generate", generate)
    log = run_of(**fields)
    (engine,) = engines
    assert engine.read == trained != []
    image = engine.processor.image_token_id
    counts = {ids.count(image) for ids in engine.read}
    assert len(counts) > 2, "images of one size show nothing"
    assert max(counts) <= 2 * 16  # two images, each of up to 64 x 64 pixels
    assert engine.model.dtype == torch.float32
    (start,) = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    expected = {"engine": "vllm", "mode": "colocate", "version": "stand-in", "dtype": "float32"}
    assert start["sampler"] == expected
    assert len(log) == 2
    for line in log:
        assert line[DIFFERENCE] < 1e-3
        assert all(0.99 < line[name] < 1.01 for name in RATIOS)


def test_vllm_forgets_image_features_of_older_weights(engines: list[LLM], run_of: Any) -> None:
    log = run_of("few", max_steps=6)  # each image three times
    assert max(line[DIFFERENCE] for line in log) < 1e-4


def test_sleeping_vllm_gets_the_weights_again(engines: list[LLM], run_of: Any) -> None:
    log = run_of(vllm_enable_sleep_mode=True)
    assert max(line[DIFFERENCE] for line in log) < 1e-4


# The guard


def _expanded_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VLLMSampler, "generate", VLLMSampler.__mro__[1].generate)


def _other_pixels(patch: pytest.MonkeyPatch) -> None:
    """As many tokens of other pixels."""
    stock = LLM.generate

    def flipped(self: Any, prompts: Sequence[Any], **named: Any) -> Any:
        for prompt in prompts:
            image = prompt["multi_modal_data"]["image"]
            turned = image.transpose(Image.Transpose.ROTATE_180)
            prompt["multi_modal_data"] = {"image": turned}
        return stock(self, prompts, **named)

    patch.setattr(LLM, "generate", flipped)


def _old_features(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LLM, "reset_encoder_cache", lambda self: None)


def _old_weights(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LLM, "load_weights", lambda self, weights: None)


def _other_dtype(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vllm_sampling, "compute_dtype", lambda model, accelerator: torch.bfloat16)


FAULTS = (_expanded_twice, _other_pixels, _old_features, _old_weights, _other_dtype)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sampler_that_differs_stops_the_run(
    engines: list[LLM], run_of: Any, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    fault(monkeypatch)
    with pytest.raises(JudgeError, match=r"sampler's log-probabilities differ from the trainer's"):
        run_of("few", max_steps=12)


def test_other_prompts_stop_the_run(
    engines: list[LLM], run_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_sampling, "pixel_limits", lambda processor: {"size": FOUR_TOKENS})
    with pytest.raises(
        JudgeError, match=r"another prompt than the trainer: .* for images, instead"
    ):
        run_of()


FOUR_TOKENS = {"shortest_edge": 32 * 32, "longest_edge": 32 * 32}


# Image tokens are never sampled


@pytest.mark.parametrize("family", FAMILIES)
def test_image_tokens_are_never_sampled(
    family: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_never_sampled(FAMILIES[family], world, tmp_path, monkeypatch)


def test_image_tokens_are_never_sampled_by_vllm(
    engines: list[LLM], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SamplerCheck, "FLOOR", math.inf)  # the trainer still gives them a share
    assert_never_sampled(FAMILIES["qwen3_vl"], world, tmp_path, monkeypatch, use_vllm=True)
    assert engines[0].sampling[0].bad_words == ["<|image_pad|>", "<|video_pad|>"]


def assert_never_sampled(
    build: Callable[[Path], Path],
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    **fields: Any,
) -> None:
    judge, names = tmp_path / "loud", ("image_token_id", "image_token_index")
    model = AutoModelForImageTextToText.from_pretrained(build(tmp_path / "judge"))
    config = model.config.to_dict()
    (image,) = (config[name] for name in names if config.get(name) is not None)
    video = config.get("video_token_id", config.get("video_token_index"))
    rows = model.get_output_embeddings().weight.data
    rows[image] *= 50  # louder than any other token in about every second state
    if video is not None:
        rows[video] = -rows[image]  # and in the others
    model.save_pretrained(judge)
    AutoProcessor.from_pretrained(tmp_path / "judge").save_pretrained(judge)
    sampled: list[int] = []

    def witness(completion_ids: list[list[int]], **_: Any) -> list[float]:
        sampled.extend(token for ids in completion_ids for token in ids)
        return [float(n % 2) for n in range(len(completion_ids))]

    monkeypatch.setattr("support.training.alternating", witness)
    fields = {**COLOCATE, "use_vllm": False, "max_steps": 1, **fields}
    if "qwen" not in build.__name__:
        fields |= {"min_pixels": None, "max_pixels": None}
    train(build_settings("grpo", values(world, tmp_path / "run", judge, "one", **fields)))
    assert len(sampled) >= 8
    assert not {image, video} & {*sampled}


# Validation


@pytest.mark.parametrize("sleeps", [False, True])
def test_validation_by_vllm_is_validation_by_transformers(
    engines: list[LLM], base: Path, tmp_path: Path, sleeps: bool
) -> None:
    fields = {
        **COLOCATE,
        "vllm_enable_sleep_mode": sleeps,
        "eval_strategy": "steps",
        "max_steps": -1,
        "validation_items": 24,
        "max_completion_length": 4,
    }
    fields |= {"min_pixels": None, "max_pixels": None, "save_strategy": None}
    given = values(small_world(base), tmp_path / "run", guessing_judge(base), "guess", **fields)
    settings = build_settings("grpo", given)
    loaded = [load_rows(task, "train", settings.data_root) for task in settings.tasks]
    trainer = build_trainer(settings, loaded, StopOnSignal())
    swap_verdicts(trainer)  # vLLM has to judge by what is in training, not by the checkpoint
    by_vllm = trainer.validation.run(trainer)
    assert len(engines[0].read) == len(trainer.validation.rows[0])
    trainer.use_vllm = False
    known = [
        [answer._replace(record=answer.record._replace(probabilities=None)) for answer in of_task]
        for of_task in trainer.validation.run(trainer)
    ]
    assert known == by_vllm  # which has no probabilities of the verdicts
    assert 0 < trainer.validation.figures(by_vllm)["macro_f1"] < 1


# A server


def server(processor: Any, dtype: str = "torch.float32") -> Any:
    """What TRL's client says of a server with this processor."""

    def features(images: list[list[Image.Image]]) -> list[dict[str, Any]]:
        return [
            {"mm_placeholders": {"image": [{"offset": 1, "length": image_tokens(processor, i)}]}}
            for (i,) in images
        ]

    info = {"model_config": {"dtype": dtype}}
    return SimpleNamespace(image_features=features, get_server_info=lambda: info)


@pytest.mark.parametrize("limits", [(32 * 32, None), (None, 64 * 64)])
def test_a_server_with_other_limits_on_pixels_stops_the_run(
    random_judge: Path, limits: tuple[int | None, int | None]
) -> None:
    theirs = AutoProcessor.from_pretrained(random_judge)
    theirs = with_pixel_limits(theirs, 48 * 48, 128 * 128)
    check_server(server(theirs), theirs, "float32", "vllm serve")
    ours = with_pixel_limits(theirs, *limits)
    with pytest.raises(JudgeError, match=r"it limits pixels otherwise[\s\S]*\n  vllm serve"):
        check_server(server(theirs), ours, "float32", "vllm serve")


def test_a_server_with_another_data_type_stops_the_run(random_judge: Path) -> None:
    processor = AutoProcessor.from_pretrained(random_judge)
    with pytest.raises(JudgeError, match=r"computes in float32, the trainer in bfloat16"):
        check_server(server(processor), processor, "bfloat16", "vllm serve")


# Images on the trainer's grid


@pytest.mark.parametrize("patch", [14, 16, 8], ids=["Qwen2.5-VL", "Qwen3-VL", "tiny"])
def test_of_an_image_on_the_grid_everyone_makes_as_many_tokens(patch: int) -> None:
    """With the trainer's limits, and without any that the image does not already keep."""
    low, high = 4 * (2 * patch) ** 2, 802816
    limits = {"shortest_edge": low, "longest_edge": high}
    ours = Qwen2VLImageProcessor(patch_size=patch, size=limits)
    wide = {"shortest_edge": (2 * patch) ** 2, "longest_edge": 16777216}
    random = Random(0)
    for _ in range(1000):
        sides = [random.randint(28, 4096) for _ in range(2)]
        width, height = grid_size(*sides, ours)
        for size in (limits, wide):
            theirs = Qwen2VLImageProcessor(patch_size=patch, size=size)
            patches = theirs.get_number_of_image_patches(height, width)
            assert patches == (width // patch) * (height // patch), sides


def test_fitting_an_image_computes_the_processors_pixels() -> None:
    processor = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
    for seed, size in enumerate([(300, 200), (40, 31), (113, 97), (60, 200), (112, 112)]):
        image = random_image(seed, size)
        once = processor(image, return_tensors="pt")
        fitted = processor(fit_grid(image, processor), return_tensors="pt")
        assert fitted["image_grid_thw"].tolist() == once["image_grid_thw"].tolist()
        assert torch.equal(fitted["pixel_values"], once["pixel_values"])
