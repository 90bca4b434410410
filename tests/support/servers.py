"""HTTP servers on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers every request with :meth:`answer`, in whole bodies, and logs nothing."""

    def answer(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_GET

    def send(
        self,
        data: bytes,
        content_type: str = "application/json",
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def serving(handler: type[Handler]) -> Iterator[str]:
    """Serve on a free port; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ChatServer:
    """An OpenAI-compatible server that answers by what a prompt contains.

    Args:
        answers: what a prompt contains -> its answer; an integer is an HTTP status, and None is no
            reply while the server runs.
    """

    def __init__(self, answers: Mapping[str, str | int | None]) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []
        """For each request what its prompt contained, in the order of arrival."""
        self.refused: dict[str, str] = {}
        """Settings that the model does not take, and the message of the answer to them."""
        self.closing = Event()

    def handler(self) -> type[Handler]:
        server = self

        class Chat(Handler):
            def answer(self) -> None:
                prompt = self.rfile.read(int(self.headers["Content-Length"])).decode()
                for name, message in server.refused.items():
                    if name in json.loads(prompt):
                        self.send(json.dumps({"error": {"message": message}}).encode(), status=400)
                        return
                (found,) = (mark for mark in server.answers if mark in prompt)
                server.asked.append(found)
                answer = server.answers[found]
                if answer is None:
                    server.closing.wait()
                    return
                if isinstance(answer, int):
                    error = {"message": f"verdict: No; {self.headers['Authorization']}"}
                    self.send(json.dumps({"error": error}).encode(), status=answer)
                    return
                message = {"role": "assistant", "content": answer}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
                reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
                self.send(json.dumps({**reply, "choices": [choice], "usage": usage}).encode())

        return Chat


@contextmanager
def chat_server(
    answers: Mapping[str, str | int | None], at_once: int = 2
) -> Iterator[tuple[ChatServer, str]]:
    """Serve a :class:`ChatServer`; it, and the `--model_args` of lmms-eval's client for it."""
    server = ChatServer(answers)
    with serving(server.handler()) as address:
        arguments = f"model=m,base_url={address}/v1,api_key=planted-secret,max_retries=1"
        yield server, f"{arguments},num_concurrent={at_once}"
        server.closing.set()
