"""``mtrl-judge train`` and ``accelerate launch -m mtrl_judge.rl.train``: one judge over many tasks.

python -m mtrl_judge.rl.train grpo|sft --recipe NAME|FILE [--key value …]
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.sources import LoadedSplit, load_rows
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD

from . import rewards
from .arguments import METHODS, JudgeArguments, Method
from .dataset import build_dataset
from .model import JUDGE, adapter_config, check_model, freeze_vision, load_trainable, save_judge
from .preflight import accepted_licenses, checked_leaks
from .settings import Settings, parse_settings, warm_up_settings

WARM_UP = "warm_up"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a user's mistake ends in one message and exit code 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mtrl_judge").setLevel(logging.INFO)
    try:
        method = _method(words[:1])
        settings = parse_settings(method, words[1:])
        if settings.judge.dry_run:
            from .dry_run import dry_run

            print(dry_run(settings))
            return
        train(settings)
        _leave_the_other_processes()
    except JudgeError as error:
        sys.exit(str(error) if os.environ.get("RANK", "0") == "0" else 1)


def _leave_the_other_processes() -> None:
    from accelerate import PartialState

    PartialState().destroy_process_group()


def _method(words: Sequence[str]) -> Method:
    for method in METHODS:
        if words == [method]:
            return method
    given = words[0] if words else ""
    raise JudgeError(f"train: {given!r} is no method; {did_you_mean(given, METHODS)}")


def train(settings: Settings, *, checks: bool = True) -> Path:
    """Train, and write the best checkpoint as a judge of its own; its folder.

    A signal ends the process with 128 + its number, after a checkpoint.

    Args:
        checks: look first for items that evaluation has too.

    Raises:
        JudgeError: a mistake in settings, data or model, or the run's folder is taken.
    """
    from accelerate import PartialState
    from transformers.utils import logging

    from .callbacks import StopOnSignal
    from .run_record import finish_record, start_record, write_model_card

    logging.disable_progress_bar()  # of weights read and written; training's own stays
    folder = Path(str(settings.trainer.output_dir))
    tasks = settings.tasks
    check_model(settings)
    _check_trackers(settings)
    if settings.method == "grpo":
        reward_functions(settings.judge)
    root = settings.data_root
    with PartialState().main_process_first():
        loaded = [load_rows(task, "train", root) for task in tasks]
    data = {task.task: split.record for task, split in zip(tasks, loaded, strict=True)}
    accepted = accepted_licenses(tasks, data, settings.judge.accept_license)
    if PartialState().is_main_process:
        # A warm-up has the data that its run has checked.
        leaks = checked_leaks(tasks, root, allowed=settings.judge.allow_leaks) if checks else None
        start_record(folder, settings, data, {"accepted_licenses": accepted, "leaks": leaks})
    PartialState().wait_for_everyone()
    settings = _warmed_up(settings, folder)
    stop = StopOnSignal()
    with stop:
        trainer = _trainer(settings, loaded, root, folder, stop)
        trainer.train(resume_from_checkpoint=_checkpoint(settings, folder))
    if stop.signalled is not None:
        print(f"stopped by {stop.signalled.name}; go on with: --resume", file=sys.stderr)
        sys.exit(128 + stop.signalled)
    save_judge(trainer, settings, folder)
    if trainer.is_world_process_zero():
        scores = _best_scores(trainer)
        write_model_card(folder / JUDGE, settings, data, scores, accepted)
        finish_record(folder, trainer.state.global_step, scores)
    # A warm-up's judge is read next, by every process.
    PartialState().wait_for_everyone()
    return folder / JUDGE


def _check_trackers(settings: Settings) -> None:
    """Transformers would find out with a traceback, after the model is loaded."""
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in settings.trainer.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise JudgeError(f"report_to: {name!r}; {did_you_mean(name, INTEGRATION_TO_CALLBACK)}")
        if name not in get_available_reporting_integrations():
            raise JudgeError(f"report_to: {name} is not installed; pip install {name}")


def _checkpoint(settings: Settings, folder: Path) -> str | None:
    """Where a resumed run goes on; None is the beginning."""
    from accelerate import PartialState

    from .checkpoints import discard_broken, latest_checkpoint

    if not settings.judge.resume:
        return None
    if PartialState().is_main_process:
        discard_broken(folder)
    PartialState().wait_for_everyone()
    newest = latest_checkpoint(folder)
    return None if newest is None else str(newest)


def _warmed_up(settings: Settings, folder: Path) -> Settings:
    """The settings with the warmed-up model to start from, after its SFT where one is asked for."""
    if settings.judge.warm_up is None:
        return settings
    warm = folder / WARM_UP
    if not (warm / JUDGE / CHECKPOINT_CARD).is_file():
        train(_warm_up_settings(settings, warm), checks=False)
        gc.collect()
    model = replace(settings.model, model_name_or_path=str(warm / JUDGE))
    return replace(settings, model=model)


def _warm_up_settings(settings: Settings, folder: Path) -> Settings:
    """The SFT recipe on this run's tasks, data, model, seed and processes."""
    judge = settings.judge
    values = {
        "output_dir": str(folder),
        "model_name_or_path": settings.model.model_name_or_path,
        "data_root": judge.data_root,
        "seed": settings.trainer.seed,
        "tasks": judge.tasks,
        "accept_license": judge.accept_license,
        "resume": folder.exists(),
    }
    return warm_up_settings(settings, {k: v for k, v in values.items() if v not in (None, [])})


def _trainer(
    settings: Settings,
    loaded: Sequence[LoadedSplit],
    root: Path | None,
    folder: Path,
    stop: Any,
) -> Any:
    """TRL's trainer with model, data, rewards and callbacks in place."""
    from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback

    from .callbacks import JsonLog, Progress
    from .run_record import base_model
    from .trainer import JudgeGRPOTrainer, JudgeSFTTrainer
    from .validation import Validation

    judge, arguments = settings.judge, settings.trainer
    tasks = settings.tasks
    model, processor = load_trainable(settings)
    adapter = adapter_config(settings, model)
    if judge.freeze_vision:
        freeze_vision(model, adapter)
    keep_pairs = judge.consistency_weight > 0
    validates = arguments.eval_strategy != "no" or arguments.eval_on_start
    dataset = build_dataset(
        tasks,
        style=settings.style,
        balance=judge.balance,
        answers=settings.method == "sft",
        neighbours=keep_pairs,
        seed=arguments.seed,
        loaded=loaded,
    )
    shared: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": dataset,
        # Transformers wants one where it validates; ours chooses its own rows.
        "eval_dataset": dataset if validates else None,
        "processing_class": processor,
        "peft_config": adapter,
        "callbacks": [JsonLog(folder), stop],
        "validation": Validation.load(
            tasks if validates else [],
            settings.style,
            items=judge.validation_items,
            batch_size=arguments.per_device_eval_batch_size,
            max_new_tokens=settings.answer_tokens,
            seed=arguments.seed,
            root=root,
        ),
    }
    if judge.patience:
        shared["callbacks"].append(EarlyStoppingCallback(judge.patience))
    if settings.method == "sft":
        trainer: Any = JudgeSFTTrainer(**shared)
    else:
        functions, arguments.reward_weights = reward_functions(judge)
        trainer = JudgeGRPOTrainer(
            **shared,
            reward_funcs=functions,
            resample_tries=judge.resample_tries,
            keep_pairs=keep_pairs,
            share_prompt=judge.share_prompt,
            share_prompt_check=judge.share_prompt_check,
        )
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    if not arguments.disable_tqdm:
        trainer.add_callback(Progress())
    trainer.checkpoint_card = {
        "style": settings.style,
        "base": base_model(settings).name,
        "method": settings.method,
        "tasks": [task.task for task in tasks],
        "seed": arguments.seed,
    }
    return trainer


def reward_functions(judge: JudgeArguments) -> tuple[list[rewards.RewardFunction], list[float]]:
    """The reward functions of a run and their weights: R = (1 − α)·accuracy + α·format + ….

    Raises:
        JudgeError: a reward of the user's is not to be had.
    """
    functions: list[rewards.RewardFunction] = [rewards.accuracy, cast(Any, rewards.format)]
    weights = rewards.weights(judge.alpha)
    if judge.consistency_weight:
        functions.append(rewards.consistency)
        weights.append(judge.consistency_weight)
    if judge.length_weight and judge.length_soft and judge.length_hard:
        functions.append(rewards.length(judge.length_soft, judge.length_hard))
        weights.append(judge.length_weight)
    for path, weight in (judge.user_rewards or {}).items():
        functions.append(rewards.user_reward(path))
        weights.append(weight)
    return functions, weights


def _best_scores(trainer: Any) -> Mapping[str, float]:
    """The figures of the validation that chose the weights; none without validation."""
    state = trainer.state
    for line in reversed(state.log_history):
        if line["step"] == state.best_global_step and "eval_macro_f1" in line:
            return {k.removeprefix("eval_"): v for k, v in line.items() if k.startswith("eval_")}
    return {}


if __name__ == "__main__":
    main()
