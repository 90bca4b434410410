"""A prepared set as a dataset on the hub, with a card that says where it comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.markdown import as_yaml, render_card
from mtrl_judge.judge_tasks.sources import find_source, load_rows, split_files
from mtrl_judge.judge_tasks.spec import SPLIT_KEYS, JudgeTask


class Publication(NamedTuple):
    """What a push puts into a repository."""

    repo: str
    files: dict[str, Path]
    """By the path in the repository; the card comes beside them."""
    card: str
    """The text of README.md."""

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.stat().st_size for file in self.files.values())


def publication(task: JudgeTask, repo: str, root: Path | None = None) -> Publication:
    """What would be pushed; the rows are read and checked, the hub is not asked.

    Raises:
        DataError: the task's data is in no folder, or is not what its YAML says.
    """
    from huggingface_hub import DatasetCardData

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise JudgeError(f"--repo: is {repo!r}; would be right: owner/name")
    source = find_source(task, root)
    if source.folder is None:
        raise DataError(
            f"{task.task}: its data is in no folder, only on the hub ({source.location}); "
            f"prepare it: mtrl-judge data prepare {task.task}"
        )
    if source.kind == "sample":
        raise DataError(f"{task.task}: {source.location} is the sample corpus, not the dataset")
    by_split = {split: split_files(source.folder, split) for split in source.splits}
    # Not the folder's own card: it may tell of this machine.
    files = {f"data/{file.name}": file for own in by_split.values() for file in own}
    data_files = [
        {"split": split, "path": [f"data/{file.name}" for file in own]}
        for split, own in by_split.items()
    ]
    card_data = DatasetCardData(
        license="other",
        license_name="see-below",
        license_link=task.judge.card.url,
        tags=["mtrl-judge", "llm-as-a-judge", task.judge.kind],
        configs=[{"config_name": "default", "data_files": data_files}],
    )
    card = render_card(
        Path(__file__).with_name("dataset_card.md.jinja"),
        card_data=card_data,
        task=task,
        repo=repo,
        revision=source.revision,
        splits={split: load_rows(task, split, root).record for split in task.splits},
        made=[split for split in task.splits if split not in source.splits],
        keys=as_yaml({"dataset_path": repo, **{SPLIT_KEYS[s]: s for s in source.splits}}),
    )
    return Publication(repo, files, card)


def push(task: JudgeTask, what: Publication, *, private: bool, force: bool) -> str:
    """Make the repository, put everything into it in one commit; the commit's address.

    Raises:
        JudgeError: the repository has files and `force` is not set, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = HfApi()
    operations: list[Any] = [
        CommitOperationAdd("README.md", what.card.encode()),
        *(CommitOperationAdd(path, file) for path, file in what.files.items()),
    ]
    try:
        hub.create_repo(what.repo, repo_type="dataset", private=private, exist_ok=True)
        there = set(hub.list_repo_files(what.repo, repo_type="dataset")) - {".gitattributes"}
    except Exception as error:
        raise _refused(what, error) from error
    if there and not force:
        raise JudgeError(
            f"--repo: {what.repo} has files ({', '.join(sorted(there)[:3])}, …); "
            "name another one, or give --force"
        )
    try:
        done = hub.create_commit(
            what.repo,
            operations,
            commit_message=f"{task.task}, prepared by mtrl-judge",
            repo_type="dataset",
        )
    except Exception as error:
        raise _refused(what, error) from error
    return str(done.commit_url)


def _refused(what: Publication, error: Exception) -> JudgeError:
    told = (str(error).strip() or type(error).__name__).splitlines()[0]
    return JudgeError(
        f"{what.repo}: the hub did not take it ({told}); log in with a token that may write "
        "there (`hf auth login`, or HF_TOKEN)"
    )
