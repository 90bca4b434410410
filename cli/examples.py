"""Examples that the help of each command ends with, by its name; a test checks what they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EXAMPLES: Mapping[str, Sequence[str]] = {
    "": ("demo", "eval --model-args pretrained=Qwen/Qwen3-VL-8B-Instruct --batch-size 8"),
    "demo": ("demo --out demo-run",),
    "tasks": ("tasks", "tasks --cards"),
    "data": ("data sample --data-root mtrl-data", "data status"),
    "data sample": ("data sample --data-root mtrl-data",),
    "data prepare": (
        "data prepare mtrl_judge_imagereward mtrl_judge_seetrue",
        "data prepare 'mtrl_judge_agin_*' --from AGIN",
    ),
    "data status": ("data status", "data status 'mtrl_judge_agin_*' --json"),
    "data leaks": ("data leaks --data-root mtrl-data",),
    "data facts": ("data facts mtrl_judge_seetrue --from logs/judge",),
    "new": ("new mtrl_judge_mine --kind pairwise --dataset owner/name",),
    "validate": ("validate mtrl_judge_mine.yaml --rows 5",),
    "preview": (
        "preview mtrl_judge_seetrue --n 2",
        "preview mtrl_judge_seetrue --model tiny-base --html",
    ),
    "eval": (
        "eval --model-args pretrained=Qwen/Qwen3-VL-8B-Instruct --batch-size 8",
        "eval --tasks mtrl_judge_seetrue mtrl_judge_unsafebench --model-args pretrained=tiny-base",
        "eval --retry-failed logs",
    ),
    "leaderboard": ("leaderboard logs", "leaderboard logs --format html --out report.html"),
    "leaderboard show": (
        "leaderboard logs --full",
        "leaderboard logs other-logs --tasks 'mtrl_judge_agin_*' --metric accuracy",
        "leaderboard logs --format html --out report.html --force",
    ),
    "leaderboard add": ("leaderboard add board.json logs",),
    "leaderboard merge": ("leaderboard merge ours.json theirs.json --out board.json",),
    "leaderboard schema": ("leaderboard schema",),
    "report": ("report logs --out report --data-root mtrl-data", "report board.json --out page"),
    "gate": ("gate logs --baseline baseline.json --min mtrl_judge_seetrue=0.7",),
    "baseline": ("baseline save logs --out baseline.json",),
    "baseline save": ("baseline save logs --out baseline.json",),
    "robustness": (
        "robustness --perturbations swap,blank_image --model-args pretrained=tiny-base",
    ),
    "train": (
        "train grpo --recipe tiny_cpu --model_name_or_path tiny-base --dry_run",
        "train grpo --recipe tiny_cpu --model_name_or_path tiny-base --output_dir runs/tiny",
        "train sft --recipe tiny_cpu --model_name_or_path tiny-base --output_dir runs/sft",
    ),
    "track": ("track logs --to wandb --project judges",),
    "recipes": ("recipes", "recipes --copy grpo/tiny_cpu --out mine.yaml"),
    "experiment": (
        "experiment --recipe tiny_cpu --out experiment --seeds 3",
        "experiment --recipe tiny_cpu --arms controls --dry-run",
    ),
    "push": (
        "push judge runs/tiny --to owner/judge --results logs --dry-run",
        "push leaderboard board.json --to owner/board --public",
    ),
    "push judge": ("push judge runs/tiny --to owner/judge --results logs --dry-run",),
    "push results": ("push results logs --to owner/results --dry-run",),
    "push leaderboard": (
        "push leaderboard board.json --to owner/board --public",
        "push leaderboard logs --to owner/board-data --repo-type dataset --dry-run",
    ),
    "push data": ("push data mtrl_judge_seetrue --to owner/name --dry-run",),
    "serve": ("serve --model tiny-base --task mtrl_judge_seetrue --port 8400",),
    "score": ("score answers.jsonl --task mtrl_judge_seetrue --explain",),
    "tiny": ("tiny --data-root mtrl-data --out tiny-base",),
    "schema": ("schema",),
}
