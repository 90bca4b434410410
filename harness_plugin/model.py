"""`mtrl_judge`: any image-text-to-text checkpoint as a judge inside lmms-eval.

`lmms-eval --model mtrl_judge --model_args pretrained=PATH --tasks mtrl_judge_*`

Requests of all tasks are batched together by length and answered greedily unless a task asks for
sampling; the answer is handed on whole, reasoning included, because the task's scorer reads it.
While a GPU generates one batch, a background thread prepares the next.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.utils import simple_parse_args_string
from PIL import Image
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from mtrl_judge.judge_tasks.errors import did_you_mean
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD, STYLES

from .style import set_checkpoint_style

CARD_EXAMPLE = '{"style": "reasoned"}'

# A judge's own tags: the scorer reads them, so they stay in an answer even where a tokenizer calls
# them special, and in a prompt, where they say what form the answer is to have.
JUDGE_TAGS = frozenset({"<think>", "</think>", "<answer>", "</answer>"})

NO_MODEL_ARGS = ("max_batch_size", "unknown")
DEFAULT_MAX_NEW_TOKENS = 1024
GENERATION_KEYS = (
    "do_sample",
    "max_new_tokens",
    "num_beams",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
    "until",
)

# Prompts whose pictures are held in memory at a time: enough to sort by length, while 512 pictures
# of a million pixels stay under 2 GB.
WINDOW = 512

# For the estimate of a prompt's length only: characters of English a token, and pixels a token of
# a 14-pixel patch merged two by two (Qwen2-VL; arXiv 2409.12191).
CHARACTERS_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28

ZERO_WIDTH_SPACE = "\u200b"

T = TypeVar("T")


@dataclass(frozen=True)
class Prompt:
    """A request made ready for the processor."""

    index: int  # its place among the requests
    text: str  # the chat template's output
    images: list[Image.Image]
    length: float  # estimated tokens


@dataclass(frozen=True)
class Batch:
    """Prompts that are generated together, as the model takes them."""

    prompts: Sequence[Prompt]
    inputs: Mapping[str, torch.Tensor]
    generation: Mapping[str, Any]


class MtrlJudge(lmms):  # type: ignore[misc]  # lmms-eval has no types
    """Chat backend for judges: `AutoModelForImageTextToText` with `AutoProcessor`.

    Every argument is a `--model_args` key. `dtype` is bfloat16 on a GPU and float32 on a CPU unless
    named; `min_pixels` and `max_pixels` bound width × height of each picture as the model sees it;
    `max_new_tokens` overrides the tasks' own. A fault of the caller's is a SystemExit with the
    message, because lmms-eval prints a traceback for everything else.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        device_map: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_new_tokens: int | None = None,
        trust_remote_code: bool = False,
        system_prompt: str | None = None,
        max_batch_size: int | None = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        _refuse_unknown(unknown)
        if pretrained is None:
            _stop("pretrained: missing; would be right: --model_args pretrained=FOLDER_OR_HUB_ID")
        pretrained = str(Path(pretrained).expanduser()) if pretrained[:1] == "~" else pretrained
        if max_batch_size is not None:
            _stop("max_batch_size: this backend does not search for a batch size; leave it out")
        self._batch_size = _positive("batch_size", batch_size)
        self._max_new_tokens = max_new_tokens and _positive("max_new_tokens", max_new_tokens)
        self._min_pixels = min_pixels and _positive("min_pixels", min_pixels)
        self._max_pixels = max_pixels and _positive("max_pixels", max_pixels)
        if self._min_pixels and self._max_pixels and self._min_pixels > self._max_pixels:
            _stop(f"min_pixels: {min_pixels} is more than max_pixels, {max_pixels}")
        self._system_prompt = system_prompt

        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        self._device = self._choose_device(device, device_map)

        card = read_checkpoint_card(pretrained)
        source = {"revision": revision, "trust_remote_code": bool(trust_remote_code)}
        _check_config(pretrained, source)
        self.processor = _load_processor(pretrained, source)
        self.tokenizer = self.processor.tokenizer
        self._model: Any = _load_model(
            pretrained,
            source,
            dtype=_torch_dtype(dtype, self._device),
            device_map=device_map or {"": self._device},
            attn_implementation=attn_implementation,
        )
        self._device = self._model.device
        self._config = self._model.config
        self._limit_pixels()
        self._eos_ids = _eos_ids(self._model, self.tokenizer)
        # A checkpoint's own sampling settings would make greedy judging warn, or not be greedy.
        self._model.generation_config = GenerationConfig()

        self._find_special_tokens()

        set_checkpoint_style(card.get("style"))

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, object] | None = None
    ) -> MtrlJudge:
        """Build from `--model_args`, which win over the flags lmms-eval adds (`--batch_size`)."""
        flags = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**{**flags, **simple_parse_args_string(arg_string)})

    @property
    def config(self) -> Any:
        """The checkpoint's transformers config."""
        return self._config

    @property
    def model(self) -> Any:
        """The loaded model."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return self._device

    @property
    def batch_size(self) -> int:
        """Prompts generated together."""
        return self._batch_size

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer every request; answers come back in the order of the requests."""
        results: dict[int, GenerationResult] = {}
        batches = self._batches(requests)
        if self._device.type != "cpu":
            batches = _one_ahead(batches)
        seconds = 0.0
        with tqdm(total=len(requests), disable=self.rank != 0, desc="Judging") as progress:
            for batch in batches:
                started = time.perf_counter()
                results.update(self._answer(batch))
                seconds += time.perf_counter() - started
                progress.update(len(batch.prompts))
        tokens = sum(result.token_counts.output_tokens for result in results.values())
        log_metrics(
            total_gen_tokens=tokens,
            total_elapsed_time=seconds,
            avg_speed=tokens / seconds if seconds else 0.0,
            additional_metrics={"rank": self.rank, "total_requests": len(requests)},
        )
        return [results[index] for index in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refuse: a judge's verdict is read from what it writes."""
        _stop("mtrl_judge: a judge generates its verdict; it runs tasks of generate_until only")

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Refuse: a judge answers once."""
        _stop("mtrl_judge: a judge answers in one round; it runs tasks of generate_until only")

    def _choose_device(self, device: str | None, device_map: str | None) -> torch.device:
        if self._world_size > 1:
            if device_map is not None:
                _stop("device_map: several processes hold one copy of the model each; leave it out")
            # Also where a device is named: lmms-eval gathers over accelerate's own device.
            own: torch.device = self.accelerator.device
            return own
        if device is not None:
            return torch.device(device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _find_special_tokens(self) -> None:
        special = _special_tokens(self.tokenizer)
        self._hidden_ids = {i for i, token in special.items() if token not in JUDGE_TAGS}
        self._markup = markup_pattern(special.values())

    def _limit_pixels(self) -> None:
        """Hand the pixel limits to an image processor that counts pixels itself.

        Of those, as in Qwen2-VL, `size` holds pixel counts under the names of edges.
        """
        image_processor = self.processor.image_processor
        self._processor_counts_pixels = "min_pixels" in getattr(
            image_processor.valid_kwargs, "__annotations__", {}
        )
        if not self._processor_counts_pixels:
            return
        low, high = image_processor.size["shortest_edge"], image_processor.size["longest_edge"]
        high = self._max_pixels or max(high, self._min_pixels or high)
        low = min(self._min_pixels or low, high)
        image_processor.size = {"shortest_edge": low, "longest_edge": high}

    def _batches(self, requests: Sequence[Instance]) -> Iterator[Batch]:
        """Group by generation settings, sort by length within a window, cut into batches."""
        groups: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[json.dumps(request.args[2], sort_keys=True, default=str)].append(index)
        for indices in groups.values():
            generation = self._generation(requests[indices[0]].args[2])
            for window in _chunks(indices, WINDOW):
                prompts = [self._prompt(requests[index], index) for index in window]
                # Longest first: if memory does not suffice, it shows in the first batch.
                prompts.sort(key=lambda prompt: -prompt.length)
                for chunk in _chunks(prompts, self.batch_size):
                    yield Batch(chunk, self._inputs(chunk), generation)

    def _prompt(self, request: Instance, index: int) -> Prompt:
        _, doc_to_messages, _, doc_id, task, split = request.args
        messages, images = [], []
        if self._system_prompt:
            messages.append(_text_message("system", self._system_prompt, self._markup))
        for message in doc_to_messages(self.task_dict[task][split][doc_id]):
            content = []
            for part in message["content"]:
                if part["type"] == "text":
                    content.append({"type": "text", "text": _defuse(part["text"], self._markup)})
                elif part["type"] == "image" and isinstance(part["url"], Image.Image):
                    content.append({"type": "image"})
                    images.append(self._picture(part["url"]))
                else:
                    found = f"{part['type']} ({type(part.get('url')).__name__})"
                    _stop(f"{task}, item {doc_id}: {found}; mtrl_judge takes text and PIL images")
            messages.append({"role": message["role"], "content": content})
        text = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        pixels = sum(image.width * image.height for image in images)
        length = len(text) / CHARACTERS_PER_TOKEN + pixels / PIXELS_PER_TOKEN
        return Prompt(index, text, images, length)

    def _picture(self, image: Image.Image) -> Image.Image:
        image = image.convert("RGB")
        if self._processor_counts_pixels:
            return image
        return fit_pixels(image, self._min_pixels, self._max_pixels)

    def _inputs(self, prompts: Sequence[Prompt]) -> Mapping[str, torch.Tensor]:
        images = [prompt.images for prompt in prompts]
        bos = self.tokenizer.bos_token
        inputs: Mapping[str, torch.Tensor] = self.processor(
            text=[prompt.text for prompt in prompts],
            images=images if any(images) else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            # Where the chat template writes the BOS token, the tokenizer must not add another.
            add_special_tokens=bos is None or not prompts[0].text.startswith(bos),
        )
        return inputs

    def _generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Turn a task's `generation_kwargs` into arguments of `generate`, greedy by default."""
        for key in asked:
            if key not in GENERATION_KEYS:
                near = did_you_mean(key, GENERATION_KEYS)
                _stop(f"generation_kwargs: unknown key {key!r}; {near}")
        temperature = asked.get("temperature")
        if temperature is None:
            temperature = 1.0 if asked.get("do_sample") else 0.0
        generation = {
            "do_sample": temperature > 0,
            "max_new_tokens": self._max_new_tokens
            or asked.get("max_new_tokens")
            or DEFAULT_MAX_NEW_TOKENS,
            "num_beams": asked.get("num_beams") or 1,
            "repetition_penalty": asked.get("repetition_penalty") or 1.0,
            "until": _stop_strings(asked.get("until")),
        }
        if temperature > 0:
            # transformers takes the 50 likeliest tokens unless told; 0 is all of them.
            generation |= {
                "temperature": temperature,
                "top_p": asked.get("top_p") or 1.0,
                "top_k": asked.get("top_k") or 0,
            }
        return generation

    @torch.inference_mode()
    def _answer(self, batch: Batch) -> dict[int, GenerationResult]:
        settings = dict(batch.generation)
        until = settings.pop("until")
        inputs = {
            name: value.to(self._device, self._model.dtype if value.is_floating_point() else None)
            for name, value in batch.inputs.items()
        }
        pad = self.tokenizer.pad_token_id
        output_B_T = self._model.generate(
            **inputs,
            **settings,
            eos_token_id=self._eos_ids,
            pad_token_id=self._eos_ids[0] if pad is None else pad,
            use_cache=True,
        )
        prompt_tokens = inputs["input_ids"].shape[1]
        rows_B = output_B_T[:, prompt_tokens:].tolist()
        counts_B = inputs["attention_mask"].sum(dim=1).tolist()
        answers = {}
        for prompt, row, count in zip(batch.prompts, rows_B, counts_B, strict=True):
            tokens = _up_to_end(row, self._eos_ids)
            text = _cut(self._decode(tokens), until)
            answers[prompt.index] = GenerationResult(
                text, TokenCounts(input_tokens=count, output_tokens=len(tokens))
            )
            self.cache_hook.add_partial("generate_until", (prompt.text, batch.generation), text)
        return answers

    def _decode(self, tokens: Sequence[int]) -> str:
        shown = [token for token in tokens if token not in self._hidden_ids]
        text: str = self.tokenizer.decode(
            shown, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


def read_checkpoint_card(path: str | Path) -> dict[str, Any]:
    """Read what training wrote beside a checkpoint's weights (`mtrl_judge.json`).

    Returns an empty dictionary for a checkpoint that is not ours. A card that cannot be read, or
    whose `style` is neither "reasoned" nor "direct", is a SystemExit.
    """
    file = Path(path) / CHECKPOINT_CARD
    if not file.is_file():
        return {}
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        _stop(f"{file}: no valid JSON ({error}); would be right: {CARD_EXAMPLE}")
    if not isinstance(card, dict):
        _stop(f"{file}: holds a {type(card).__name__}; would be right: {CARD_EXAMPLE}")
    if card.get("style") not in STYLES:
        _stop(f"{file}: style: {card.get('style')!r}; would be right: {' or '.join(STYLES)}")
    return card


def fit_pixels(image: Image.Image, least: int | None, most: int | None) -> Image.Image:
    """Resize, keeping the aspect, so that least <= width × height <= most (None: no bound).

    Where whole numbers of pixels cannot meet both bounds, `most` holds.
    """
    width, height = image.size
    if least is not None and width * height < least:
        scale = math.sqrt(least / (width * height))
        width, height = math.ceil(width * scale), math.ceil(height * scale)
    if most is not None and width * height > most:
        scale = math.sqrt(most / (width * height))
        # The outer bounds are for a strip, which cannot shrink in both directions.
        width = max(1, min(math.floor(width * scale), most))
        height = max(1, min(math.floor(height * scale), most // width))
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


def markup_pattern(special_tokens: Iterable[str]) -> re.Pattern[str]:
    """Match the first character of each chat markup string in a text.

    `<|` begins the markup of most chat formats, also of placeholders that a processor knows and a
    tokenizer does not. Judge tags are left alone.
    """
    markup = {token for token in special_tokens if len(token) > 1} - JUDGE_TAGS | {"<|"}
    return re.compile(f"(?=({'|'.join(map(re.escape, sorted(markup)))})).", re.DOTALL)


def _defuse(text: str, markup: re.Pattern[str]) -> str:
    """Break up chat markup in judged text, so that it is read as text and not as markup."""
    return markup.sub(lambda match: match.group() + ZERO_WIDTH_SPACE, text)


def _text_message(role: str, text: str, markup: re.Pattern[str]) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": _defuse(text, markup)}]}


def _special_tokens(tokenizer: Any) -> dict[int, str]:
    """Ids and texts of all tokens that a tokenizer treats as special."""
    added = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    named = tokenizer.all_special_ids
    return added | dict(zip(named, tokenizer.convert_ids_to_tokens(named), strict=True))


def _eos_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the checkpoint's own (one or several) and the tokenizer's."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    ids = [i for i in dict.fromkeys([tokenizer.eos_token_id, *ids]) if i is not None]
    if not ids:
        _stop("tokenizer: it names no end-of-sequence token, so no answer would ever end")
    return ids


def _up_to_end(row: Sequence[int], eos_ids: Sequence[int]) -> Sequence[int]:
    """The tokens of an answer, its end token included, the padding behind it not."""
    for place, token in enumerate(row):
        if token in eos_ids:
            return row[: place + 1]
    return row


def _stop_strings(until: object) -> list[str]:
    strings = [until] if isinstance(until, str) else list(until or [])  # type: ignore[call-overload]
    return [string for string in strings if string]


def _cut(text: str, until: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    for string in until:
        text = text.split(string, 1)[0]
    return text


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Make the next item in a background thread while the caller works on the last one.

    For a model on a GPU. On a CPU the thread takes the cores that the model computes on: two cores
    generated half as fast with it.
    """
    with ThreadPoolExecutor(max_workers=1) as background:
        ahead = background.submit(next, items, None)
        while (item := ahead.result()) is not None:
            ahead = background.submit(next, items, None)
            yield item


def _chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _stop(message: str) -> NoReturn:
    raise SystemExit(message)


def _refuse_unknown(unknown: Mapping[str, object]) -> None:
    known = [key for key in inspect.signature(MtrlJudge).parameters if key not in NO_MODEL_ARGS]
    if unknown:
        wrong = (f"model_args: unknown key {key!r}; {did_you_mean(key, known)}" for key in unknown)
        _stop("\n".join(wrong))


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not str(value).isdecimal() or int(str(value)) < 1:
        _stop(f"{name}: {value!r}; would be right: a whole number from 1 up")
    return int(str(value))


def _torch_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        _stop(f"dtype: {name!r}; would be right: auto, float32, bfloat16 or float16")
    return dtype


def _check_config(pretrained: str, source: Mapping[str, Any]) -> None:
    """Stop unless `pretrained` holds the config of an image-text-to-text model."""
    folder = Path(pretrained)
    if folder.is_dir():
        _check_folder(folder)
    elif folder.is_file():
        _stop(f"pretrained: {folder} is a file; would be right: the checkpoint's folder")
    elif folder.is_absolute() or pretrained.startswith(".") or pretrained.count("/") != 1:
        _stop(f"pretrained: no folder {folder}; would be right: a checkpoint's folder or a hub id")
    try:
        config = AutoConfig.from_pretrained(pretrained, **source)
    except (OSError, ValueError, KeyError) as error:
        _stop(f"pretrained: {pretrained} has no config that transformers can read: {error}")
    by_itself = "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if not by_itself and type(config) not in AutoModelForImageTextToText._model_mapping:
        named = ", ".join(config.architectures or []) or "no architecture named"
        _stop(
            f"pretrained: {pretrained} is a {config.model_type} ({named}), which takes no images "
            "with text; would be right: an image-text-to-text model such as Qwen3-VL"
        )


def _check_folder(folder: Path) -> None:
    there = sorted(path.name for path in folder.iterdir())
    if "config.json" in there:
        return
    shown = ", ".join(there[:8]) + (", …" if len(there) > 8 else "") if there else "nothing"
    if "adapter_config.json" in there:
        _stop(f"pretrained: {folder} holds an adapter only; merge it into its base model first")
    _stop(
        f"pretrained: {folder} is no model folder: no config.json, there is {shown}; "
        "would be right: config.json, weights and processor files"
    )


def _load_processor(pretrained: str, source: Mapping[str, Any]) -> Any:
    right = "would be right: the files that its processor's save_pretrained writes"
    try:
        processor = AutoProcessor.from_pretrained(pretrained, **source)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        _stop(f"pretrained: {pretrained} has no processor that loads: {error}; {right}")
    for part in ("image_processor", "tokenizer"):
        if getattr(processor, part, None) is None:
            _stop(f"pretrained: the processor of {pretrained} has no {part}; {right}")
    # Where a tokenizer's files are missing, transformers makes an empty one of the family's class.
    tokens = processor.tokenizer("Yes", add_special_tokens=False)["input_ids"]
    if processor.tokenizer.decode(tokens, skip_special_tokens=True).strip() != "Yes":
        _stop(f"pretrained: the tokenizer of {pretrained} cannot write 'Yes'; {right}")
    if processor.chat_template is None:
        _stop(f"pretrained: the processor of {pretrained} has no chat template; {right}")
    return processor


def _load_model(pretrained: str, source: Mapping[str, Any], **how: Any) -> Any:
    """Load the weights; weights that are missing stop it, as they would be drawn at random."""
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            pretrained, output_loading_info=True, **source, **how
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        _stop(f"pretrained: {pretrained} does not load: {error}")
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        _stop(
            f"pretrained: {pretrained} lacks {len(missing)} of the model's weights, such as "
            f"{', '.join(missing[:3])}; would be right: a complete checkpoint"
        )
    return model.eval()
