"""A judge on vLLM: the prompts, pixels and tokens of the engine transformers, computed by vLLM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from mtrl_judge.common.errors import JudgeError

from .base_judge import Answer, Batch, Prompt, TokenizingJudge, VerdictLogps, prompt_seed
from .pixels import pixel_limits
from .verdict_logps import require_finite, verdict_tokens


def require_vllm() -> None:
    """
    Raises:
        JudgeError: vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise JudgeError(
            "engine=vllm: vLLM is not installed in this environment; `pip install vllm` (see "
            "docs/evaluation.md), or leave engine out to use transformers"
        )


class VLLMJudge(TokenizingJudge):
    """A judge whose model vLLM loads and runs.

    vLLM forms batches by itself, so the larger ours are, the better. Prompts that begin alike, such
    as those of the verdicts of one item, share their beginning through its prefix cache, images
    included.

    Args:
        pretrained: a checkpoint folder or a hub id.
        processor: its processor, with a chat template; it is not modified.
        dtype: of weights and computation.
        revision: of the checkpoint on the hub.
        eos_token_id: end tokens that the checkpoint names besides its tokenizer's.
        seed: of sampling; each prompt's own seed is derived from it.
        min_pixels: lower bound of width × height of each image as the model sees it.
        max_pixels: as for :class:`.base_judge.TokenizingJudge`.
        system_prompt: prepended to every conversation.
        options: further arguments of vLLM's `LLM`.

    Raises:
        JudgeError: there is no end token, or vLLM cannot load the checkpoint.
    """

    def __init__(
        self,
        pretrained: str,
        processor: Any,
        *,
        dtype: torch.dtype,
        eos_token_id: int | Sequence[int] | None,
        revision: str | None = None,
        seed: int = 0,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        system_prompt: str | None = None,
        **options: Any,
    ) -> None:
        from vllm import LLM
        from vllm.exceptions import VLLMValidationError

        super().__init__(
            processor,
            eos_token_id=eos_token_id,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            system_prompt=system_prompt,
        )
        self._dtype, self._seed = dtype, seed
        try:
            self.llm = LLM(
                model=pretrained,
                revision=revision,
                tokenizer_revision=revision,
                dtype=str(dtype).removeprefix("torch."),
                # No sampling settings from the checkpoint: every request states all of its own.
                generation_config="vllm",
                mm_processor_kwargs=pixel_limits(self.processor),
                **options,
            )
        except (ValueError, RuntimeError, OSError, VLLMValidationError) as error:
            raise JudgeError(
                f"engine=vllm: vLLM cannot load {pretrained}: {error} (its own messages are above)"
            ) from None

    def inputs(self, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """vLLM's prompts: tokens, one for each image, which vLLM expands, and the images."""
        bos = self.tokenizer.bos_token
        return [
            {
                "prompt_token_ids": self.tokenizer(
                    prompt.text,
                    # As in `TransformersJudge.inputs`.
                    add_special_tokens=bos is None or not prompt.text.startswith(bos),
                )["input_ids"],
                **({"multi_modal_data": {"image": prompt.images}} if prompt.images else {}),
            }
            for prompt in prompts
        ]

    def generate(self, batch: Batch, *, until: Sequence[str] = (), **settings: Any) -> list[Answer]:
        """As :meth:`BaseJudge.generate`.

        Raises:
            JudgeError: beams are requested, or vLLM refuses a prompt.
        """
        outputs = self._generate(
            batch,
            # A seed for each prompt, because vLLM's batches depend on timing.
            [self._seed + index for index in batch.indices],
            1,
            until,
            settings,
        )
        return [answers[0] for answers in outputs]

    def sample(
        self,
        batch: Batch,
        samples: int,
        seed: int,
        *,
        until: Sequence[str] = (),
        **settings: Any,
    ) -> list[list[Answer]]:
        """As :meth:`BaseJudge.sample`; vLLM reads a prompt once for all of its answers (`n`), and
        counts up from the prompt's seed (`ParentRequest` in vllm/v1/engine/parallel_sampling.py).

        Raises:
            JudgeError: as :meth:`generate`.
        """
        seeds_B = [prompt_seed(seed, prompt) for prompt in batch.prompts]
        return self._generate(batch, seeds_B, samples, until, settings)

    def _generate(
        self,
        batch: Batch,
        seeds_B: Sequence[int],
        answers: int,
        until: Sequence[str],
        settings: Mapping[str, Any],
    ) -> list[list[Answer]]:
        from vllm import SamplingParams

        if settings["num_beams"] > 1:
            raise JudgeError("num_beams: engine=vllm has no beam search; use engine=transformers")
        parameters = {
            "max_tokens": settings["max_new_tokens"],
            "repetition_penalty": settings.get("repetition_penalty", 1.0),
            "temperature": 0.0,
            "stop": list(until),
            "stop_token_ids": self.eos_ids,
            # The tokens are decoded as those of every engine; vLLM's text is for stop strings only.
            "detokenize": bool(until),
            "skip_special_tokens": False,
        }
        if settings["do_sample"]:
            parameters |= {name: settings[name] for name in ("temperature", "top_p", "top_k")}
        if answers > 1:
            parameters["n"] = answers
        outputs = self._run(
            batch.inputs, [SamplingParams(**parameters, seed=seed) for seed in seeds_B]
        )
        return [
            [
                self.answer(one.token_ids, len(output.prompt_token_ids), until)
                for one in output.outputs
            ]
            for output in outputs
        ]

    def verdict_logps(
        self, batch: Batch, verdicts: Sequence[str], end: str | None = None
    ) -> VerdictLogps:
        """As :meth:`BaseJudge.verdict_logps`.

        vLLM reads a prompt once for each distinct beginning of a verdict, from its cache but for
        the first: once if all verdicts are single tokens. `logprob_token_ids` returns the
        log-probabilities of exactly the tokens that count, before temperature or penalties
        (vllm-project/vllm#34539).
        """
        from vllm import SamplingParams

        end_ids = self.end_ids(end)
        tokens_V, ends = verdict_tokens(self.tokenizer, verdicts, end_ids), set(end_ids)
        # An end token stands for any of them, as in `verdict_logps` of transformers.
        steps_V = [
            [(tuple(tokens[:n]), ends if t in ends else {t}) for n, t in enumerate(tokens)]
            for tokens in tokens_V
        ]
        wanted: dict[tuple[int, ...], set[int]] = {}  # beginning -> tokens that may follow
        for beginning, following in (step for steps in steps_V for step in steps):
            wanted.setdefault(beginning, set()).update(following)
        requests = [
            (
                {**prompt, "prompt_token_ids": [*prompt["prompt_token_ids"], *beginning]},
                SamplingParams(
                    temperature=0.0,
                    max_tokens=1,
                    logprob_token_ids=sorted(following),
                    detokenize=False,
                ),
            )
            for prompt in batch.inputs
            for beginning, following in wanted.items()
        ]
        outputs = iter(self._run(*map(list, zip(*requests, strict=True))))
        rows_B_V, input_tokens_B = [], []
        for _ in batch.inputs:
            read = {beginning: next(outputs) for beginning in wanted}
            logps = {beginning: output.outputs[0].logprobs[0] for beginning, output in read.items()}
            rows_B_V.append(
                [
                    sum(
                        _logsumexp([logps[beginning][token].logprob for token in following])
                        for beginning, following in steps
                    )
                    for steps in steps_V
                ]
            )
            input_tokens_B.append(len(read[()].prompt_token_ids))
        logps_B_V = torch.tensor(rows_B_V, dtype=torch.float32)
        require_finite(logps_B_V, self._dtype)
        return VerdictLogps(logps_B_V, input_tokens_B)

    def _run(self, prompts: Sequence[Any], parameters: Sequence[Any]) -> list[Any]:
        from vllm.exceptions import VLLMValidationError

        try:
            outputs: list[Any] = self.llm.generate(prompts, parameters, use_tqdm=False)
        except (ValueError, VLLMValidationError) as error:  # such as a prompt that is too long
            raise JudgeError(f"engine=vllm: vLLM refuses a prompt: {error}") from None
        return outputs


def _logsumexp(logps: Sequence[float]) -> float:
    highest = max(logps)
    if not math.isfinite(highest):
        return highest
    return highest + math.log(sum(math.exp(logp - highest) for logp in logps))
