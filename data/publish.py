"""Publish a prepared dataset on the hub, with a card that says where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mtrl_judge.common.errors import DataError, JudgeError, first_line
from mtrl_judge.common.markdown import as_yaml, render_card
from mtrl_judge.judge_tasks.sources import find_source, load_rows, split_files
from mtrl_judge.judge_tasks.spec import SPLIT_KEYS, JudgeTask


def repository_files(
    task: JudgeTask, repo: str, root: Path | None = None
) -> dict[str, bytes | Path]:
    """A task's files and its card, README.md, by their path in the repository.

    Reads and checks the rows; offline.

    Raises:
        DataError: the task's data is not in a folder, or is not as its YAML says.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise JudgeError(f"--repo: found {repo!r}; expected owner/name")
    source = find_source(task, root)
    if source.folder is None:
        raise DataError(
            f"{task.task}: its data is not in a folder, only on the hub ({source.location}); "
            f"prepare it first: mtrl-judge data prepare {task.task}"
        )
    if source.kind == "sample":
        raise DataError(f"{task.task}: {source.location} is the sample corpus, not the dataset")
    # Without the folder's own card.json, which may name paths of this machine.
    files: dict[str, bytes | Path] = {}
    data_files = []
    for split in source.splits:
        paths = {f"data/{file.name}": file for file in split_files(source.folder, split)}
        data_files.append({"split": split, "path": [*paths]})
        files |= paths
    card = render_card(
        Path(__file__).with_name("dataset_card.md.jinja"),
        DatasetCardData(
            license="other",
            license_name="see-below",
            license_link=task.judge.card.url,
            tags=["mtrl-judge", "llm-as-a-judge", task.judge.kind],
            configs=[{"config_name": "default", "data_files": data_files}],
        ),
        task=task,
        revision=source.revision,
        splits={split: load_rows(task, split, root).record for split in task.splits},
        cut_splits=[split for split in task.splits if split not in source.splits],
        keys=as_yaml({"dataset_path": repo, **{SPLIT_KEYS[s]: s for s in source.splits}}),
    )
    return {"README.md": DatasetCard(card).content.encode(), **files}


def push(
    task: JudgeTask, repo: str, files: Mapping[str, bytes | Path], *, private: bool, force: bool
) -> str:
    """Create the repository and upload the files in one commit; the commit's address.

    Raises:
        JudgeError: the repository has files and `force` is not set, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = HfApi()
    try:
        hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        existing = set(hub.list_repo_files(repo, repo_type="dataset")) - {".gitattributes"}
        if existing and not force:
            raise JudgeError(
                f"--repo: {repo} already has files ({', '.join(sorted(existing)[:3])}, …); choose "
                "another repository or pass --force"
            )
        commit = hub.create_commit(
            repo,
            [CommitOperationAdd(path, content) for path, content in files.items()],
            commit_message=f"{task.task}, prepared by mtrl-judge",
            repo_type="dataset",
        )
    except JudgeError:
        raise
    except Exception as error:
        raise JudgeError(
            f"{repo}: the hub refused the upload ({first_line(error)}); log in with a token that "
            "has write access (`hf auth login`, or HF_TOKEN)"
        ) from error
    return str(commit.commit_url)
