"""A server with an OpenAI-compatible API in front of a judge, as vLLM's behaves."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import Any

import torch
from PIL import Image

from mtrl_judge.models.transformers_judge import TransformersJudge

from .servers import Handler, serving


class Server:
    """What the server does and what it was asked.

    Args:
        judge: computes all logits and answers.
        continues: whether `continue_final_message` continues an answer; None refuses it as an
            unknown argument, as OpenAI does, and False ignores it.
        logprobs: whether log-probabilities are returned.
        refused: settings that the model does not take, and the message of the answer to them.
    """

    def __init__(
        self,
        judge: TransformersJudge,
        continues: bool | None = True,
        logprobs: bool = True,
        refused: Mapping[str, str] | None = None,
    ) -> None:
        self.judge, self.continues, self.logprobs = judge, continues, logprobs
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.refused = refused or {}
        self.failure: tuple[int, str] | None = None
        """The status and message of every further answer to a question with an image."""
        self.finish_reason = "stop"
        self._lock = Lock()  # one model

    def answer(self, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, Any]]:
        with self._lock, torch.inference_mode():
            self.asked.append(body)
            self.keys.add(key)
            has_image = "image_url" in json.dumps(body["messages"])
            if self.failure is not None and has_image:
                status, message = self.failure
                return status, {"error": {"message": message}}
            for name, message in self.refused.items():
                if name in body:
                    return 400, {"error": {"message": message}}
            if body["model"] != "judge":
                return 404, {"error": {"message": f"no model {body['model']}"}}
            if "continue_final_message" in body and self.continues is None:
                return 400, {"error": {"message": "Unrecognized request argument supplied"}}
            return 200, self._completion(body)

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        messages, images = read_messages(body["messages"])
        begun = None
        if self.continues and body.get("continue_final_message"):
            assert body["add_generation_prompt"] is False
            begun = messages.pop()["content"][0]["text"]
        prompt = self.judge.prompt(messages, images)
        if begun is not None:
            prompt = replace(prompt, text=prompt.text + begun)
        inputs = self.judge.inputs([prompt])
        tokens = body.get("max_tokens") or body["max_completion_tokens"]
        logprobs = None
        if body.get("logprobs") and self.logprobs:
            logps_K = self.judge.model(**inputs).logits[0, -1].double().log_softmax(dim=-1)
            named = [self._named(logps_K, t) for t in logps_K.topk(body["top_logprobs"]).indices]
            logprobs = {"content": [{**named[0], "top_logprobs": named}]}
        (batch,) = self.judge.batches([prompt], 1)
        (answer,) = self.judge.generate(
            batch, until=body.get("stop", ()), max_new_tokens=tokens, do_sample=False, num_beams=1
        )
        return {
            "id": "0",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": answer.text},
                    "finish_reason": self.finish_reason,
                    "logprobs": logprobs,
                }
            ],
            "usage": {
                "prompt_tokens": answer.input_tokens,
                "completion_tokens": answer.output_tokens,
                "total_tokens": answer.input_tokens + answer.output_tokens,
            },
        }

    def _named(self, logps_K: torch.Tensor, token: torch.Tensor) -> dict[str, Any]:
        text = self.judge.tokenizer.decode([int(token)])
        return {"token": text, "logprob": float(logps_K[token]), "bytes": list(text.encode())}


def read_messages(
    messages: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """The conversation as a judge takes it, and its images."""
    chat, images = [], []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        read: list[dict[str, Any]] = []
        for part in parts:
            if part["type"] == "image_url":
                data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
                images.append(Image.open(io.BytesIO(base64.b64decode(data))))
                read.append({"type": "image"})
            else:
                read.append(part)
        chat.append({"role": message["role"], "content": read})
    return chat, images


@contextmanager
def chat_server(server: Server) -> Iterator[str]:
    """Serve; the address of the API."""

    class Chat(Handler):
        def answer(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = server.answer(body, self.headers["Authorization"])
            self.send(json.dumps(answer).encode(), status=status)

    with serving(Chat) as url:
        yield f"{url}/v1"
