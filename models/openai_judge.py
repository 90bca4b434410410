"""A judge behind an OpenAI-compatible API, whose verdicts are scored by `top_logprobs`.

The tokenizer is the server's, so verdicts are matched as text: of the tokens that may come next,
the server names the most probable ones. Where such a token begins a verdict that takes several
tokens, the server continues the begun answer, which vLLM and SGLang do on request
(`continue_final_message`), and the probabilities multiply. Whatever the server does not name is at
most as probable as the last token that it names.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import permutations
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.markup import neutralize, special_token_pattern

from . import chat_client
from .base_judge import (
    Answer,
    BaseJudge,
    Batch,
    Prompt,
    VerdictLogps,
    estimated_length,
    neutral_messages,
    prompt_seed,
    system_messages,
)
from .chat_client import ChatClient
from .pixels import DEFAULT_MAX_PIXELS

TOP_LOGPROBS = 20  # the API's maximum, and vLLM's default
# Tokens that begin a verdict are not followed below this share of what is known of the verdict.
NEGLIGIBLE = 1e-3
# Probability of begun verdicts that cannot be followed up to which bounds will do.
TOLERATED = 0.01
_ROUNDING = 1e-6  # of a sum of the log-probabilities, which are in float32
_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}

# What OpenAI says where a model has reasoned up to the limit.
_LIMIT_REACHED = "output limit was reached"

T = TypeVar("T")


@dataclass(frozen=True)
class ChatPrompt(Prompt):
    """A conversation for a server, which renders it itself; `text` serves estimates only."""

    messages: Sequence[Mapping[str, Any]]  # without the images
    begun: str = ""  # the beginning of the answer


class _Read(NamedTuple):
    """What is known of V verdicts after one prompt."""

    probabilities_V: Sequence[float]
    upper_bounds_V: Sequence[bool]
    input_tokens: int


class _RequestError(Exception):
    """A request failed in spite of the client's retries."""


class OpenAIJudge(BaseJudge):
    """A judge whose model a server runs.

    The API key is read from OPENAI_API_KEY and appears in no message.

    Args:
        model: the model's name on the server.
        base_url: the address of the API; None is that of the client.
        concurrency: requests at a time.
        seed: of sampling; each prompt's own seed is derived from it.
        min_pixels: lower bound of width × height of each image as it is sent.
        max_pixels: upper bound, likewise; it wins over `min_pixels`. By default DEFAULT_MAX_PIXELS.
        system_prompt: prepended to every conversation.

    Raises:
        JudgeError: there is no key, or the server does not answer a short question.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        concurrency: int = 1,
        seed: int = 0,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        system_prompt: str | None = None,
    ) -> None:
        self._chat = ChatClient(model, base_url, "engine=openai", "base_url")
        self.client = self._chat.api
        self._concurrency, self._seed = concurrency, seed
        self._min_pixels = min_pixels
        self._max_pixels = max_pixels or max(DEFAULT_MAX_PIXELS, min_pixels or 0)
        self._markup = special_token_pattern([])
        self._system_messages = system_messages(system_prompt)
        self._continues: bool | None = None
        self._lock = Lock()
        try:
            self._request(
                [_user("Is water wet? Reply with Yes or No.")],
                max_tokens=16,
                temperature=0.0,
                seed=seed,
            )
        except _RequestError as error:
            if _LIMIT_REACHED not in str(error):
                raise JudgeError(f"engine=openai: {self.client.base_url}: {error}") from None

    @property
    def min_and_max_pixels(self) -> tuple[int | str, int]:
        """The bounds of what is sent; the server may resize images again."""
        return self._min_pixels or "unknown", self._max_pixels

    def recorded(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As :meth:`BaseJudge.recorded`: a temperature that the server refuses is its own."""
        if "temperature" not in self._chat.refused:
            return dict(settings)
        return {**settings, "do_sample": True, "temperature": None, "top_p": None}

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image]
    ) -> ChatPrompt:
        """As :meth:`BaseJudge.prompt`."""
        chat = neutral_messages([*self._system_messages, *messages], self._markup, len(images))
        text = "".join(part.get("text", "") for message in chat for part in message["content"])
        sent = [self._fit(image.convert("RGB")) for image in images]
        return ChatPrompt(text, sent, estimated_length(text, sent), chat)

    def inputs(self, prompts: Sequence[Prompt]) -> None:
        """Nothing: images are encoded when they are sent."""

    def continued(self, batch: Batch, texts: Sequence[str]) -> Batch:
        """As :meth:`BaseJudge.continued`."""
        prompts = [
            replace(prompt, begun=prompt.begun + neutralize(text, self._markup))
            for prompt, text in zip(_chats(batch), texts, strict=True)
        ]
        return Batch(batch.indices, prompts, None)

    def generate(self, batch: Batch, *, until: Sequence[str] = (), **settings: Any) -> list[Answer]:
        """As :meth:`BaseJudge.generate`; a request that failed has its error as text.

        Raises:
            JudgeError: a setting is not part of the API, or the server keeps reasoning apart.
        """
        asked = [*zip(_chats(batch), [self._seed + index for index in batch.indices], strict=True)]
        return self._answers(asked, until, settings)

    def sample(
        self,
        batch: Batch,
        samples: int,
        seed: int,
        *,
        until: Sequence[str] = (),
        **settings: Any,
    ) -> list[list[Answer]]:
        """As :meth:`BaseJudge.sample`: a request for each answer, since not every server has `n`.

        Raises:
            JudgeError: as :meth:`generate`.
        """
        asked = [
            (prompt, prompt_seed(seed, prompt) + sample)
            for prompt in _chats(batch)
            for sample in range(samples)
        ]
        answers = self._answers(asked, until, settings)
        return [answers[start : start + samples] for start in range(0, len(answers), samples)]

    def _answers(
        self,
        asked: Sequence[tuple[ChatPrompt, int]],
        until: Sequence[str],
        settings: Mapping[str, Any],
    ) -> list[Answer]:
        """The answers to prompts with the seed of each."""
        if settings["num_beams"] > 1:
            raise JudgeError("num_beams: the API of engine=openai has no beam search")
        if settings.get("repetition_penalty", 1.0) != 1.0 or settings.get("top_k"):
            raise JudgeError("repetition_penalty, top_k: not part of the API of engine=openai")
        requested: dict[str, Any] = {"temperature": 0.0}
        if settings["do_sample"]:
            requested = {"temperature": settings["temperature"]}
            if settings["top_p"] != 1.0:  # Anthropic takes one of the two only
                requested["top_p"] = settings["top_p"]
        if until:
            requested["stop"] = list(until)

        def answer(number: int) -> Answer:
            prompt, seed = asked[number]
            completion = self._request(
                _sent(prompt),
                # A server that continues answers is no other than vLLM or SGLang, which would drop
                # tags that a tokenizer marks as special.
                extra={"skip_special_tokens": False} if self._server_continues() else {},
                max_tokens=settings["max_new_tokens"],
                seed=seed,
                **requested,
            )
            message, usage = completion.choices[0].message, completion.usage
            for field in ("reasoning_content", "reasoning"):
                if getattr(message, field, None):
                    raise JudgeError(
                        "engine=openai: the server returns answers without their reasoning; start "
                        "it without --reasoning-parser"
                    )
            text = message.content or ""
            for string in until:
                text = text.split(string, 1)[0]
            tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
            return Answer(text, *tokens)

        answers = self._all(answer, len(asked))
        return [Answer(a, 0, 0) if isinstance(a, str) else a for a in answers]

    def verdict_logps(
        self, batch: Batch, verdicts: Sequence[str], end: str | None = None
    ) -> VerdictLogps:
        """As :meth:`BaseJudge.verdict_logps`, of the verdicts' text in whatever tokens.

        Raises:
            JudgeError: one verdict begins another and nothing shows where it ends, the server names
                no probabilities, or it cannot continue verdicts that take several tokens.
        """
        texts_V = _distinguishable(verdicts, end)
        read_B = self._all(lambda n: self._read(_chats(batch)[n], texts_V), len(batch.prompts))
        nothing = _Read([1.0] * len(texts_V), [True] * len(texts_V), 0)
        known_B = [nothing if isinstance(read, str) else read for read in read_B]
        return VerdictLogps(
            torch.tensor([[math.log(p) for p in read.probabilities_V] for read in known_B]),
            [read.input_tokens for read in known_B],
            torch.tensor([read.upper_bounds_V for read in known_B]),
            [read if isinstance(read, str) else None for read in read_B],
        )

    def _read(self, prompt: ChatPrompt, texts_V: Sequence[str]) -> _Read:
        """Follow the tokens that begin a verdict, the shortest beginnings first."""
        verdicts_V = [text.encode() for text in texts_V]
        found = dict.fromkeys(verdicts_V, 0.0)
        unknown = dict.fromkeys(verdicts_V, 0.0)  # at most so much more
        begun = {b"": 1.0}  # beginning -> its probability
        sent, input_tokens = _sent(replace(prompt, begun="")), 0
        while begun:
            beginning = min(begun, key=len)
            mass = begun.pop(beginning)
            possible = [verdict for verdict in verdicts_V if verdict.startswith(beginning)]
            if mass <= NEGLIGIBLE * min(found[verdict] for verdict in possible):
                continue
            text = _decoded(beginning)
            if text is None or (beginning and not self._server_continues()):
                if mass > TOLERATED and any(found[verdict] < mass for verdict in possible):
                    listed = " and ".join(repr(verdict.decode()) for verdict in possible)
                    raise JudgeError(
                        f"verdicts: {listed} takes several tokens, and {self.client.base_url} "
                        "does not continue an answer (continue_final_message), as vLLM and SGLang "
                        "do; use scoring=generation, or other verdicts"
                    )
                for verdict in possible:
                    unknown[verdict] += mass
                continue
            tokens, unnamed, read_tokens = self._next_tokens(sent, prompt.begun + text)
            input_tokens = input_tokens or read_tokens
            for token, probability in tokens:
                longer = beginning + token
                if longer in found:
                    found[longer] += mass * probability
                elif token and any(verdict.startswith(longer) for verdict in possible):
                    begun[longer] = begun.get(longer, 0.0) + mass * probability
            # Beside a named token, which is more probable, other spellings are not counted.
            for verdict in possible:
                if not any(token and verdict.startswith(beginning + token) for token, _ in tokens):
                    unknown[verdict] += mass * unnamed
        bounds_V = [found[verdict] < unknown[verdict] for verdict in verdicts_V]
        return _Read(
            [
                max(found[verdict] + (unknown[verdict] if bound else 0), math.ulp(0.0))
                for verdict, bound in zip(verdicts_V, bounds_V, strict=True)
            ],
            bounds_V,
            input_tokens,
        )

    def _next_tokens(
        self, sent: Sequence[Mapping[str, Any]], begun: str
    ) -> tuple[list[tuple[bytes, float]], float, int]:
        """The tokens that the server names after a prompt and the beginning of an answer, with
        their probabilities; how probable any other is at most; and the tokens of the prompt."""
        completion = self._request(
            sent,
            begun,
            max_tokens=1,
            # Where a server applies these before it reports, the probabilities are the model's own.
            temperature=1.0,
            top_p=1.0,
            logprobs=True,
            top_logprobs=TOP_LOGPROBS,
        )
        logprobs = completion.choices[0].logprobs
        if logprobs is None or logprobs.content is None:
            raise JudgeError(
                f"scoring=logprob: {self.client.base_url} returns no logprobs; use "
                "scoring=generation"
            )
        if not logprobs.content or not logprobs.content[0].top_logprobs:
            raise _RequestError("the server named no tokens (top_logprobs is empty)")
        named = logprobs.content[0].top_logprobs
        tokens = [
            (
                entry.token.encode() if entry.bytes is None else bytes(entry.bytes),
                math.exp(entry.logprob),
            )
            for entry in named
        ]
        probabilities = [probability for _, probability in tokens]
        rest = max(1 - sum(probabilities), _ROUNDING)
        usage = completion.usage
        return tokens, min(*probabilities, rest), usage.prompt_tokens if usage else 0

    def _server_continues(self) -> bool:
        """Whether the server continues a begun answer, instead of refusing to or beginning anew.

        A server that ignores what it is asked reads the same tokens in both cases.

        Raises:
            _RequestError: it could not be found out.
        """
        import openai

        with self._lock:
            if self._continues is None:
                messages = [_user("Is water wet?")]
                try:
                    open_, closed = (
                        self._chat.create([*messages, _assistant("Yes")], extra, max_tokens=1).usage
                        for extra in (_CONTINUE, {})
                    )
                except (openai.BadRequestError, openai.UnprocessableEntityError):
                    self._continues = False
                except (openai.OpenAIError, ValueError) as error:
                    raise _RequestError(self._chat.message(error)) from None
                else:
                    known = open_ is not None and closed is not None
                    self._continues = known and open_.prompt_tokens < closed.prompt_tokens
            return self._continues

    def _request(
        self,
        messages: Sequence[Mapping[str, Any]],
        begun: str = "",
        extra: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        """One completion, or a _RequestError."""
        import openai

        extra = {**(extra or {})}
        if begun:
            if not self._server_continues():
                raise JudgeError(
                    f"engine=openai: {self.client.base_url} does not continue an answer "
                    "(continue_final_message), as vLLM and SGLang do; so verdicts cannot be scored "
                    "after reasoning: leave --style reasoned out, or use scoring=generation"
                )
            messages, extra = [*messages, _assistant(begun)], {**extra, **_CONTINUE}
        try:
            completion = self._chat.create(messages, extra, **settings)
        except (openai.OpenAIError, ValueError) as error:  # ValueError: not JSON
            raise _RequestError(self._chat.message(error)) from None
        if not completion.choices:
            raise _RequestError("the server returned no answer")
        choice = completion.choices[0]
        if choice.finish_reason == "content_filter":
            raise _RequestError("finish_reason: content_filter")
        return completion

    def _all(self, work: Callable[[int], T], count: int) -> list[T | str]:
        """The work for B prompts at a time; text as lmms-eval has it in place of what failed."""

        def attempt(number: int) -> T | str:
            try:
                return work(number)
            except _RequestError as error:
                return f"[LMMS_EVAL_REQUEST_FAILED after {chat_client.MAX_RETRIES} retries] {error}"

        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(attempt, range(count)))


def _distinguishable(verdicts: Sequence[str], end: str | None) -> list[str]:
    """The texts by which verdicts are known: where one begins another, with what ends them."""
    ambiguous = [(a, b) for a, b in permutations(verdicts, 2) if b.startswith(a)]
    if ambiguous and end is None:
        shorter, longer = ambiguous[0]
        raise JudgeError(
            f"verdicts: {shorter!r} begins {longer!r}, and the API does not show where an answer "
            "ends; use --style reasoned, scoring=generation, or another engine"
        )
    return [verdict + (end or "") if ambiguous else verdict for verdict in verdicts]


def _chats(batch: Batch) -> list[ChatPrompt]:
    return [prompt for prompt in batch.prompts if isinstance(prompt, ChatPrompt)]


def _decoded(beginning: bytes) -> str | None:
    """Text; None in the middle of a character."""
    try:
        return beginning.decode()
    except UnicodeDecodeError:
        return None


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _sent(prompt: ChatPrompt) -> list[dict[str, Any]]:
    """The messages with their images, losslessly encoded."""
    images = iter(prompt.images)
    return [
        {
            "role": message["role"],
            "content": [
                part if part["type"] == "text" else _encoded(next(images))
                for part in message["content"]
            ],
        }
        for message in prompt.messages
    ]


def _encoded(image: Image.Image) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
