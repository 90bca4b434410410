"""``mtrl-judge serve``: a judge as an HTTP service."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.signals import sigterm_as_exit

from .options import (
    STYLES,
    AllowLocalFiles,
    DataRoot,
    choice,
    comma_separated,
    echo,
    use_data_root,
)

BACKENDS = ("transformers", "vllm", "openai")
SCORINGS = ("generation", "logprob")
CALIBRATIONS = ("temperature", "bias", "none")
_REQUIRED = ("prometheus_client", "starlette", "uvicorn")


def serve(
    model: Annotated[
        str, typer.Option(help="A checkpoint folder, a hub id, or the model's name on a server.")
    ],
    backend: Annotated[str, choice(BACKENDS, "What runs it.")] = "transformers",
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="A task that requests may name: a name, a pattern or a YAML (default: all shipped "
            "ones); with --scoring logprob it is calibrated at the start.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The judge's name in requests (default: the model's).")
    ] = None,
    style: Annotated[str | None, choice(STYLES, "How to answer; as for `eval`.")] = None,
    scoring: Annotated[str, choice(SCORINGS, "Where verdicts come from.")] = "generation",
    calibration: Annotated[
        str | None,
        choice(CALIBRATIONS, "Of --scoring logprob (default: temperature)."),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Where answers are cut (default: as in the tasks).")
    ] = None,
    demonstrations: Annotated[
        str | None,
        typer.Option(
            metavar="{k: …}",
            help="Solved items in every prompt, such as '{k: 4, by: [text], encoder: tfidf}'; see "
            "docs/tasks.md (default: as in the tasks).",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each item, which vote.")] = 1,
    vote: Annotated[
        str | None, typer.Option(help="Of --samples: majority (the default), mean or verified.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Of --samples (default: the task's where it samples, else 1)."),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Prompts answered together; on a GPU, auto is as many as fit.")
    ] = "16",
    model_args: Annotated[
        str,
        typer.Option(
            metavar="KEY=VALUE,…",
            help="Other arguments of the model, as for `eval`: dtype, device, max_pixels, …",
        ),
    ] = "",
    data_root: DataRoot = None,
    allow_local_files: AllowLocalFiles = False,
    host: Annotated[
        str,
        typer.Option(help="Where to listen; beyond this machine only with MTRL_JUDGE_API_KEY."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free port.")] = 8400,
    max_items: Annotated[
        int, typer.Option(min=1, help="Items of a request, and items judged together.")
    ] = 64,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Items that may wait; more are refused (429).")
    ] = 256,
    max_wait: Annotated[
        float, typer.Option(min=0, help="Milliseconds that an item waits for others.")
    ] = 5,
    max_request: Annotated[int, typer.Option(min=1, help="MiB of a request (413).")] = 32,
    max_pixels: Annotated[
        float, typer.Option(min=0.001, help="Megapixels of an image as it is sent (413).")
    ] = 33.2,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds until a request is given up (504).")
    ] = 120,
) -> None:
    """Serve a judge over HTTP, as a reward model for other trainings; see docs/serving.md.

    Requests are judged together as they arrive. A request must carry the key in MTRL_JUDGE_API_KEY
    if that is set.
    """
    if missing := [each for each in _REQUIRED if find_spec(each) is None]:
        raise JudgeError(
            f"serve: {', '.join(missing)} not installed; pip install 'mtrl-judge[serve]'"
        )
    if max_queue < max_items:
        raise JudgeError(
            f"--max-queue: {max_queue} is less than --max-items, {max_items}, so that such a "
            "request would never be judged"
        )
    arguments = _model_args(model_args)
    use_data_root(data_root)
    from mtrl_judge.judge_tasks.demonstrations import parse_demonstrations
    from mtrl_judge.judge_tasks.loading import find_tasks
    from mtrl_judge.serving.limits import Limits
    from mtrl_judge.serving.server import address_of, bind, run, service_key

    served = {task.task: task for task in find_tasks(comma_separated(tasks))}
    shown = parse_demonstrations(demonstrations, "--demonstrations")
    key = service_key()
    limits = replace(
        Limits(),
        items=max_items,
        queue=max_queue,
        wait=max_wait / 1000,
        request_bytes=max_request * 2**20,
        image_pixels=int(max_pixels * 10**6),
        seconds=timeout,
    )
    with bind(host, port, key) as bound, sigterm_as_exit():
        from mtrl_judge.serving.app import JudgeService
        from mtrl_judge.serving.judge import Judge

        judge = Judge.load(
            model,
            backend,
            style=style,
            scoring=scoring,
            calibration=calibration,
            max_new_tokens=max_new_tokens,
            demonstrations=None if shown is None else shown.model_dump(by_alias=True),
            samples=samples,
            vote=vote,
            temperature=temperature,
            batch_size=batch_size,
            **arguments,
        )
        if tasks:
            for task in served.values():
                judge.prepare(task)
        known_as = name or Path(model).name
        service = JudgeService(judge, name=known_as, tasks=served, limits=limits, key=key)
        address = address_of(bound)
        run(
            service.app(),
            bound,
            limits.seconds,
            lambda: echo(f"{known_as} serves {len(served)} tasks at {address}"),
        )


def _model_args(text: str) -> dict[str, Any]:
    """The arguments in ``key=value,key=value``; numbers become numbers.

    >>> _model_args("dtype=float32,max_model_len=4096")
    {'dtype': 'float32', 'max_model_len': 4096}
    """
    arguments: dict[str, Any] = {}
    for word in comma_separated([text]):
        key, sign, value = word.partition("=")
        if not sign:
            raise JudgeError(f"--model-args: found {word!r}; expected key=value,key=value")
        arguments[key] = int(value) if value.isdecimal() else _number(value)
    return arguments


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
