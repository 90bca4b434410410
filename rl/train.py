"""``mtrl-judge train`` and ``accelerate launch -m mtrl_judge.rl.train``: one judge over many tasks.

python -m mtrl_judge.rl.train grpo|sft --recipe NAME|FILE [--key value …]
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.exits import exits_with_message, goes_on_unread
from mtrl_judge.common.host_versions import TRAINING, check_versions
from mtrl_judge.common.locks import locked_folder
from mtrl_judge.common.utf8 import use_utf8
from mtrl_judge.judge_tasks.sources import LoadedSplit, load_rows
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD

from .arguments import METHODS, Method
from .base_card import base_card
from .dataset import raw_columns, require_facts, training_set
from .demonstrations import TrainingDemonstrations, demonstrations_record, report_style
from .engine import check_engine, confirm_engine
from .fields import flags_help
from .finished_run import JUDGE
from .host_warnings import without_renamed
from .kl_schedule import kl_schedule
from .mixed_prompts import mixed_prompts, prompt_record
from .model import base_weights, check_model, checkpoint_card, save_judge, trainable
from .packages import package_faults
from .perception import OutageError
from .preflight import accepted_licenses, checked_leaks
from .recipes import PLACEHOLDERS, launch_command
from .rewards import reward_functions
from .settings import Settings, parse_settings, samples_answers, warm_up_settings
from .training_end import training_end

if TYPE_CHECKING:
    from .callbacks import StopOnSignal

WARM_UP = "warm_up"
LAUNCH = "--launch"
QUIET, VERBOSE = ("--quiet", "-q"), ("--verbose", "-v")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an error that the user can fix ends in one message and exit code 2."""
    use_utf8()
    given = list(sys.argv[1:] if arguments is None else arguments)
    quiet, verbose = ({*names} & {*given} for names in (QUIET, VERBOSE))
    words = [word for word in given if word not in (*QUIET, *VERBOSE)]
    words += ["--disable_tqdm"] * bool(quiet) + ["--log_level", "info"] * bool(verbose)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mtrl_judge").setLevel(logging.WARNING if quiet else logging.INFO)
    with exits_with_message(quiet=os.environ.get("RANK", "0") != "0"):
        method = next((m for m in METHODS if words[:1] == [m]), None)
        if method is None:
            word = words[0] if words else ""
            raise JudgeError(f"train: {word!r} is not a method; {did_you_mean(word, METHODS)}")
        if "--help" in words or "-h" in words:
            print(flags_help(method))
            return
        check_versions(TRAINING)
        if LAUNCH in words:
            words.remove(LAUNCH)
            if not {"--dry_run", "--dry-run"} & {*words}:
                launch(method, words[1:])
        settings = parse_settings(method, words[1:])
        if settings.judge.dry_run:
            from .dry_run import dry_run

            print(dry_run(settings))
            return
        with goes_on_unread():
            judge = train(settings)
            if os.environ.get("RANK", "0") == "0":
                print(training_end(settings, judge))
    from accelerate import PartialState

    PartialState().destroy_process_group()


def launch(method: Method, flags: Sequence[str]) -> NoReturn:
    """Become the processes that these flags and their recipe ask for, under accelerate's launcher.

    Raises:
        JudgeError: a mistake in the settings, or this machine's number is not known.
    """
    planned = parse_settings(method, [*flags, "--dry_run"])
    command = launch_command(method, planned.judge, flags, python=sys.executable)
    unset = [word for word in command if word in PLACEHOLDERS and word[1:] not in os.environ]
    if unset:
        raise JudgeError(
            f"--launch: {planned.judge.machines} machines, and {', '.join(unset)} is not set; set "
            "MACHINE_RANK (0 is the main machine) and MAIN_PROCESS_IP on each"
        )
    command = [os.environ[word[1:]] if word in PLACEHOLDERS else word for word in command]
    os.execvp(command[0], command)


def train(settings: Settings, *, checks_leaks: bool = True) -> Path:
    """Train, and write the best checkpoint as a judge of its own; its folder.

    A signal ends the process with exit code 128 + its number, after a checkpoint.

    Args:
        checks_leaks: compare the training data with evaluation data first.

    Raises:
        JudgeError: a mistake in settings, data or model, or the run's folder is not free, or
            another process trains in it.
    """
    from accelerate import PartialState

    folder = Path(str(settings.trainer.output_dir))
    _check(settings)
    with locked_folder(folder) if PartialState().is_main_process else nullcontext():
        return _train(settings, folder, checks_leaks=checks_leaks)


def _train(settings: Settings, folder: Path, *, checks_leaks: bool) -> Path:
    from accelerate import PartialState
    from transformers.utils import logging

    from .callbacks import StopOnSignal
    from .model_card import write_model_card
    from .run_record import (
        finish_record,
        finished_now,
        record_sampler,
        start_record,
        task_record,
    )

    logging.disable_progress_bar()  # of weights being loaded and saved; the training's bar stays
    report_style(settings)
    tasks, root = settings.tasks, settings.data_root
    process = PartialState()
    with process.main_process_first():
        loaded = [load_rows(task, "train", root) for task in tasks]
    if settings.method == "grpo":  # before the model is loaded
        raw_columns(settings.judge, loaded)
        require_facts(settings.judge, loaded)
    data = {
        task.task: {
            **split.record,
            **prompt_record(task, settings.judge.prompts),
            **demonstrations_record(task),
            **task_record(task),
        }
        for task, split in zip(tasks, loaded, strict=True)
    }
    accepted = accepted_licenses(tasks, data, settings.judge.accept_license)
    if process.is_main_process:
        allowed = settings.judge.allow_leaks
        leaks = checked_leaks(tasks, root, allowed=allowed) if checks_leaks else None
        base = base_card(str(settings.given["model_name_or_path"]), settings.model.model_revision)
        checks = {"accepted_licenses": accepted, "leaks": leaks, "base": base}
        start_record(folder, settings, data, checks)
    process.wait_for_everyone()
    settings = _with_sampled_answers(_warmed_up(settings, loaded, folder), loaded, folder)
    with StopOnSignal() as stop, without_renamed():
        trainer = build_trainer(settings, loaded, stop)
        confirm_engine(settings, trainer.accelerator)
        if settings.method == "grpo" and trainer.is_world_process_zero():
            record_sampler(folder, trainer.sampler_record())
        try:
            trainer.train(resume_from_checkpoint=_checkpoint(settings, folder))
        except OutageError as outage:
            saved = trainer.save_after_failure()
            raise JudgeError(f"{outage}\n{saved}; continue with --resume") from None
    if stop.signalled is not None:
        if process.is_main_process:
            print(f"stopped by {stop.signalled.name}; continue with --resume", file=sys.stderr)
        sys.exit(128 + stop.signalled)
    save_judge(trainer, settings, folder)
    if trainer.is_world_process_zero():
        finished = finished_now(
            trainer.state.global_step,
            _best_scores(trainer, settings.headline),
            best_step=trainer.state.best_global_step,
            validation=trainer.best_intervals(),
        )
        write_model_card(folder, finished)
        finish_record(folder, finished)
    process.wait_for_everyone()  # the judge of a warm-up is loaded next, by every process
    return folder / JUDGE


def _check(settings: Settings) -> None:
    """Find what would otherwise fail, or silently do something else, after the model is loaded."""
    if faults := list(package_faults(settings)):
        raise JudgeError("\n".join(faults))
    check_engine(settings)
    check_model(settings)
    reward_functions(settings.judge)


def _checkpoint(settings: Settings, folder: Path) -> str | None:
    """The checkpoint that a resumed run continues from; None is the beginning."""
    from accelerate import PartialState

    from .checkpoints import discard_broken, latest_checkpoint

    if not settings.judge.resume:
        return None
    if PartialState().is_main_process:
        discard_broken(folder)
    PartialState().wait_for_everyone()
    newest = latest_checkpoint(folder)
    return None if newest is None else str(newest)


def _warmed_up(settings: Settings, loaded: Sequence[LoadedSplit], folder: Path) -> Settings:
    """The settings to start from the judge of the warm-up, which runs first if it has not yet."""
    from .deepspeed import begin_again
    from .rejection_sampling import sample_answers

    if settings.judge.warm_up is None:
        return settings
    warm, judge = folder / WARM_UP, settings.judge
    if not (warm / JUDGE / CHECKPOINT_CARD).is_file():
        values = {
            "output_dir": str(warm),
            "model_name_or_path": settings.model.model_name_or_path,
            "data_root": judge.data_root,
            "seed": settings.trainer.seed,
            "tasks": judge.tasks,
            "accept_license": judge.accept_license,
            "resume": warm.exists(),
        }
        if samples_answers(judge, "warm_up"):
            values["answers"] = str(sample_answers(settings, loaded, folder))
        values = {name: value for name, value in values.items() if value not in (None, [])}
        # The data is the same, and its leaks have been checked.
        train(warm_up_settings(settings, values), checks_leaks=False)
        gc.collect()
    begin_again(settings.trainer.deepspeed_plugin)
    model = replace(settings.model, model_name_or_path=str(warm / JUDGE))
    return replace(settings, model=model)


def _with_sampled_answers(
    settings: Settings, loaded: Sequence[LoadedSplit], folder: Path
) -> Settings:
    """The settings with a file of answers, which are sampled first if they have to be."""
    from .rejection_sampling import sample_answers

    if not samples_answers(settings.judge, "answers"):
        return settings
    file = sample_answers(settings, loaded, folder)
    return replace(settings, judge=replace(settings.judge, answers=str(file)))


def build_trainer(settings: Settings, loaded: Sequence[LoadedSplit], stop: StopOnSignal) -> Any:
    """TRL's trainer with model, data, rewards, validation and callbacks in place.

    Args:
        loaded: the training split of each task.
        stop: the callback that ends the run at a signal.
    """
    from transformers import PrinterCallback, ProgressCallback

    from mtrl_judge.models.pixels import fit_grid

    from .callbacks import JsonLog, Patience, Progress
    from .collapse import CollapseWarning
    from .grpo_trainer import JudgeGRPOTrainer
    from .run_record import record_warning
    from .sft_trainer import JudgeSFTTrainer
    from .validation import Validation

    judge, arguments = settings.judge, settings.trainer
    model, processor, adapter = trainable(settings)
    # vLLM processes images by itself; of these it can only make as many tokens as the trainer.
    fit = partial(fit_grid, image_processor=processor.image_processor)
    uses_vllm = getattr(arguments, "use_vllm", False)  # SFT samples nothing
    prompts = mixed_prompts(settings)
    demonstrations = TrainingDemonstrations(settings, model, processor)
    loaded = [demonstrations.attach(split) for split in loaded]
    dataset = training_set(settings, loaded, fit if uses_vllm else None, prompts)
    validation = Validation.load(settings, demonstrations)
    callbacks = [JsonLog(Path(str(arguments.output_dir))), stop]
    if validation is not None:
        record = partial(record_warning, Path(str(arguments.output_dir)))
        callbacks.append(CollapseWarning(validation.label_shares(), record))
    if judge.patience:
        callbacks.append(Patience(judge.patience))
    shared: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": dataset,
        # transformers requires one in order to validate; Validation has its own rows.
        "eval_dataset": dataset if validation else None,
        "processing_class": processor,
        "peft_config": adapter,
        "callbacks": callbacks,
        "validation": validation,
        "checkpoint_card": checkpoint_card(settings),
        "base_weights": base_weights(settings, model),
        "prompts": prompts,
    }
    if settings.method == "sft":
        trainer: Any = JudgeSFTTrainer(**shared)
    else:
        if arguments.beta and adapter is None and settings.model.model_revision != "main":
            # TRL loads the reference model by name alone (trl/trainer/grpo_trainer.py).
            given = arguments.model_init_kwargs or {}
            arguments.model_init_kwargs = {"revision": settings.model.model_revision, **given}
        functions, arguments.reward_weights = reward_functions(judge)
        trainer = JudgeGRPOTrainer(
            **shared,
            reward_funcs=functions,
            kl_schedule=kl_schedule(judge.beta),
            worst_task=judge.balance == "worst_task",
            resample_tries=judge.resample_tries,
            keep_pairs=judge.consistency_weight > 0,
            share_prompt=judge.share_prompt,
            share_prompt_check=judge.share_prompt_check,
            micro_batch_tokens=judge.micro_batch_tokens,
        )
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    if not arguments.disable_tqdm:
        trainer.add_callback(Progress(settings.headline))
    return trainer


def _best_scores(trainer: Any, headline: str) -> Mapping[str, float]:
    """The figures of the validation that chose the weights; none without validation."""
    state = trainer.state
    for line in reversed(state.log_history):
        if line["step"] == state.best_global_step and f"eval_{headline}" in line:
            return {k.removeprefix("eval_"): v for k, v in line.items() if k.startswith("eval_")}
    return {}


if __name__ == "__main__":
    main()
