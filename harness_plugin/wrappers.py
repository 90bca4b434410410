"""What makes the stock lmms-eval run judge tasks: functions of it, wrapped in memory.

lmms-eval 0.7.3 has an entry-point group for models, which it imports before it builds its
TaskManager, and none for tasks. So :func:`wrap_lmms_eval` returns the backend and, as a side
effect, wraps ten functions. A wrapper changes nothing unless a judge YAML is involved, so other
tasks are not affected. Log messages lose secrets in any case.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import JudgeError, nearest
from mtrl_judge.common.exits import exit_of_host
from mtrl_judge.common.files import read_json
from mtrl_judge.common.printable import printable
from mtrl_judge.common.secrets import redact
from mtrl_judge.judge_tasks.loading import SHIPPED, load_judge_task, peek
from mtrl_judge.judge_tasks.sources import data_root
from mtrl_judge.judge_tasks.spec import DATA_CARD

from .answer_store import STORE_VARIABLE
from .clean_answers import clean, is_failed_request
from .hooks import Hook, JudgeHooks, hooks_of_request
from .host_flags import LISTS
from .kept_answers import with_kept_answers
from .prompt_style import effective_generation, evaluation_style, set_backend

_hooks: dict[Path, tuple[int, JudgeHooks]] = {}


def wrap_lmms_eval() -> Any:
    """Wrap its functions, once in a process; the ``ModelManifest`` of the backend."""
    from lmms_eval.models.registry_v2 import ModelManifest

    _wrap_yaml_loading()
    _wrap_model_registry()
    _wrap_task_manager()
    _wrap_download()
    _wrap_filters()
    _wrap_response_cache()
    _wrap_configuration()
    _wrap_fewshot()
    _wrap_logs()
    return ModelManifest(
        model_id="mtrl_judge", chat_class_path="mtrl_judge.harness_plugin.model.MtrlJudge"
    )


def hooks_of(path: Path) -> JudgeHooks:
    """The hooks of a judge YAML, the same object until the file changes."""
    changed = path.stat().st_mtime_ns
    known = _hooks.get(path)
    if known is None or known[0] != changed:
        _hooks[path] = (changed, JudgeHooks(load_judge_task(path)))
    return _hooks[path][1]


def _is_stock(path: Path) -> bool:
    import lmms_eval

    return path.is_relative_to(Path(lmms_eval.__file__).parent)


def _wrap_yaml_loading() -> None:
    """A judge YAML loads as the native configuration it stands for.

    In lmms-eval's "simple" mode, which builds the index of all tasks, it loads as its name alone,
    so that a fault in it stops only runs of that task.
    """
    from lmms_eval import utils

    stock = utils.load_yaml_config

    @functools.wraps(stock)
    def load_yaml_config(yaml_path: Any = None, *args: Any, **kwargs: Any) -> Any:
        path = None if yaml_path is None else Path(yaml_path)
        in_index = kwargs.get("mode", "full") == "simple"
        if path is not None and in_index and path.exists() and not path.is_file():
            return {}  # reading a device or a FIFO may never end
        raw = None if path is None or _is_stock(path) else peek(path)
        if path is None or raw is None:
            return stock(yaml_path, *args, **kwargs)
        if in_index:
            if path.name.startswith("_"):
                return {}  # included by other YAMLs
            name = raw.get("task")
            return {"task": name if isinstance(name, str) else path.stem}
        return hooks_of(path).config()

    utils.load_yaml_config = load_yaml_config


def _wrap_model_registry() -> None:
    """A model's answers to judge tasks are kept where a store is named.

    And what our backend said about its model does not outlast it: one process may run several.
    """
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    stock = ModelRegistryV2.get_model_class

    @functools.wraps(stock)
    def get_model_class(self: Any, model_name: str, *args: Any, **kwargs: Any) -> Any:
        set_backend(None)
        return with_kept_answers(stock(self, model_name, *args, **kwargs), model_name)

    ModelRegistryV2.get_model_class = get_model_class


def _wrap_task_manager() -> None:
    from lmms_eval.tasks import TaskManager

    stock_index, stock_match = TaskManager.initialize_tasks, TaskManager.match_tasks

    @functools.wraps(stock_index)
    def initialize_tasks(self: Any, *args: Any, **kwargs: Any) -> Any:
        index = stock_index(self, *args, **kwargs)
        shipped = self._get_task_and_group(str(SHIPPED))
        return {**shipped, **index}

    @functools.wraps(stock_match)
    def match_tasks(self: Any, task_list: Iterable[str]) -> Any:
        wanted = [*task_list]
        names = _with_data(self, wanted, stock_match(self, wanted))
        _refuse_unknown(self, wanted, names)
        _prepare(self, names)
        return names

    TaskManager.initialize_tasks = initialize_tasks
    TaskManager.match_tasks = match_tasks


def _with_data(manager: Any, wanted: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names without shipped tasks that a pattern matched and the sample corpus does not have.

    The corpus is to try things with, and has not every task; a task that is named is an error.
    """
    try:
        root = data_root()
    except JudgeError:
        root = None  # `_prepare` reports it for each task
    if root is None or read_json(root / DATA_CARD, missing_ok=True).get("source") != "sample":
        return [*names]
    kept = []
    for name in names:
        entry = manager.task_index.get(name, {})
        shipped = entry.get("type") == "task" and Path(entry["yaml_path"]).parent == SHIPPED
        if shipped and name not in wanted and not (root / name).is_dir():
            print(f"{name}: skipped, the sample corpus in {root} does not have it", file=sys.stderr)
        else:
            kept.append(name)
    return kept


def _refuse_unknown(manager: Any, wanted: Iterable[str], found: Iterable[str]) -> None:
    """Refuse unknown tasks of `mtrl-judge eval`, as all mistakes of its user.

    lmms-eval prints a traceback, and exits with 0.
    """
    if not os.environ.get(STORE_VARIABLE):
        return
    known = {*found}
    unknown = [
        name for name in wanted if name not in known and "*" not in name and not Path(name).exists()
    ]
    if unknown:
        guesses = [
            f"--tasks: no task {name!r}; {f'did you mean {near!r}?' if near else LISTS}"
            for name in unknown
            for near in [nearest(name, manager.all_tasks)]
        ]
        raise exit_of_host("\n".join(guesses))


def _prepare(manager: Any, names: Iterable[str]) -> None:
    """Check the YAMLs and the data of the selected tasks before a model is loaded.

    lmms-eval's command line matches names first and then loads the model. It prints a traceback
    for an ``Exception`` and exits with 0, hence ``SystemExit``.
    """
    set_backend(None)  # of a model before, as in `_wrap_model_registry`
    faults: list[str] = []
    for path in _judge_paths(manager, names):
        try:
            hooks = hooks_of(path)
            evaluation_style(hooks.task)
            hooks.prepare()
        except JudgeError as error:
            faults.append(str(error))
    if faults:
        unique = dict.fromkeys(faults)  # a wrong environment variable affects every task
        raise exit_of_host("\n".join(["mtrl-judge: cannot run the selected tasks", *unique]))


def _judge_paths(manager: Any, names: Iterable[str]) -> list[Path]:
    """The judge YAMLs among the named tasks and the members of the named groups and tags."""
    paths: dict[Path, None] = {}
    for name in names:
        entry = manager.task_index.get(name, {})
        if entry.get("type") == "task":
            path = Path(entry["yaml_path"])
            if not _is_stock(path) and peek(path) is not None:
                paths[path] = None
        elif entry.get("type") == "tag":
            paths |= dict.fromkeys(_judge_paths(manager, entry["task"]))
        elif entry.get("type") == "group" and not _is_stock(Path(str(entry["yaml_path"]))):
            members = [m for m in manager._get_config(name).get("task", ()) if isinstance(m, str)]
            paths |= dict.fromkeys(_judge_paths(manager, members))
    return list(paths)


def _wrap_download() -> None:
    """Rows of a judge task come from mtrl-judge, once and without lmms-eval's retries."""
    from lmms_eval.api.task import ConfigurableTask

    stock = ConfigurableTask.download

    @functools.wraps(stock)
    def download(self: Any, *args: Any, **kwargs: Any) -> Any:
        process_results = self.config.process_results
        if not isinstance(process_results, Hook):
            return stock(self, *args, **kwargs)
        return process_results.owner.attach(self)

    ConfigurableTask.download = download


def _wrap_filters() -> None:
    """Answers to judge tasks lose their lone surrogates before anything reads them, and the message
    of a failed request loses secrets: a server may quote a wrong key.

    A server's reply can have lone surrogates as JSON escapes. With one of them, lmms-eval cannot
    write the task's samples, logs that, and exits with 0 (`save_results_samples` in
    lmms_eval/loggers/evaluation_tracker.py).
    """
    from lmms_eval.api.task import ConfigurableTask

    stock = ConfigurableTask.apply_filters

    @functools.wraps(stock)
    def apply_filters(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.config.process_results, Hook):
            for instance in self.instances:
                instance.resps = [
                    clean(answer) if isinstance(answer, str) else answer
                    for answer in instance.resps
                ]
        return stock(self, *args, **kwargs)

    ConfigurableTask.apply_filters = apply_filters


def _wrap_response_cache() -> None:
    """`--use_cache` takes answers to judge tasks without lone surrogates, and no failed requests.

    SQLite cannot store a lone surrogate: lmms-eval loses the whole run. And it would take the text
    of a failed request for an answer, also in every later run.
    """
    from lmms_eval.caching.response_cache import ResponseCache

    stock = ResponseCache.execute

    @functools.wraps(stock)
    def execute(self: Any, lm: Any, reqtype: str, requests: list[Any]) -> Any:
        if any(hooks_of_request(request) for request in requests):
            _keep_answers_only(self)
        return stock(self, lm, reqtype, requests)

    ResponseCache.execute = execute


def _keep_answers_only(cache: Any) -> None:
    kind = type(cache)

    def failed(response: Any) -> bool:
        return is_failed_request(kind._extract_cacheable(response))

    def extract(response: Any) -> Any:
        text = kind._extract_cacheable(response)
        return clean(text) if isinstance(text, str) else text

    def is_valid(response: Any, request_type: str) -> bool:
        return kind._is_valid_response(response, request_type) and not failed(response)

    def look_up(key: str) -> Any:
        response = kind._lookup(cache, key)
        return None if failed(response) else response

    cache._extract_cacheable, cache._is_valid_response = extract, is_valid
    cache._lookup = look_up


def _wrap_configuration() -> None:
    """The configuration in the results has the settings that answers are generated with.

    lmms-eval applies ``--gen_kwargs`` after a task has loaded its rows, and before it copies the
    configuration into results and cache keys.
    """
    from lmms_eval.api.task import ConfigurableTask

    stock = ConfigurableTask.dump_config

    @functools.wraps(stock)
    def dump_config(self: Any) -> Any:
        config = stock(self)
        hook = self.config.process_results
        if isinstance(hook, Hook):
            try:
                settings = effective_generation(hook.owner.task, self.config.generation_kwargs)
            except JudgeError as error:  # lmms-eval would print a traceback and exit 0
                raise exit_of_host(str(error)) from None
            config["metadata"]["judge"]["generation"] = settings
        return config

    ConfigurableTask.dump_config = dump_config


def _wrap_fewshot() -> None:
    """`--num_fewshot` is the number of demonstrations of a judge task, which mtrl-judge chooses.

    lmms-eval's own are texts before the prompt, drawn without regard to the item.
    """
    from lmms_eval.api.task import ConfigurableTask

    stock_set, stock_context = ConfigurableTask.set_config, ConfigurableTask.fewshot_context

    @functools.wraps(stock_set)
    def set_config(self: Any, key: str, value: Any, update: bool = False) -> None:
        stock_set(self, key, value, update)
        hook = self.config.process_results
        if key == "num_fewshot" and isinstance(hook, Hook):
            hook.owner.show(self, value)

    @functools.wraps(stock_context)
    def fewshot_context(self: Any, doc_id: Any, num_fewshot: int, *args: Any, **kwargs: Any) -> Any:
        ours = isinstance(self.config.process_results, Hook)
        return stock_context(self, doc_id, 0 if ours else num_fewshot, *args, **kwargs)

    ConfigurableTask.set_config = set_config
    ConfigurableTask.fewshot_context = fewshot_context


def _wrap_logs() -> None:
    """Log messages have no secrets: lmms-eval logs the token of the hub (`cli_evaluate_single` in
    lmms_eval/__main__.py). Those of mtrl-judge, which quote data and servers, are printable too."""
    from loguru import logger

    def patch(record: Any) -> None:
        message = redact(record["message"])
        ours = (record["name"] or "").startswith("mtrl_judge.")
        record["message"] = printable(message) if ours else message

    logger.configure(patcher=patch)
