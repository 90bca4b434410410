"""Uploads to the Hugging Face Hub: what would be sent, and one commit that sends it.

Logins are huggingface_hub's own (``hf auth login``, ``HF_TOKEN``): no token is taken from a flag,
and text that has one in it is not sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from .errors import JudgeError, first_line
from .secrets import Redactor

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

RepoType: TypeAlias = Literal["model", "dataset", "space"]

CARD = "README.md"
TAG = "mtrl-judge"
"""In the cards of all repositories that are ours."""
_TEXTS = (".json", ".jsonl", ".md", ".yaml", ".txt", ".jinja", ".html")
# Vocabularies, which are the base model's and may contain anything.
_UNREAD = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")


class Upload(NamedTuple):
    """What a repository is to contain."""

    repo: str
    """owner/name"""
    repo_type: RepoType
    files: Mapping[str, bytes | Path]
    """By path in the repository; :data:`CARD` is among them and has :data:`TAG`."""
    message: str
    """Of the commit."""


def check_repo(repo: str) -> str:
    """The name of a repository.

    Raises:
        JudgeError: it is not a name that a repository can have.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo, re.ASCII):
        raise JudgeError(f"--to: found {repo!r}; expected owner/name")
    return repo


def preview(upload: Upload, *, public: bool) -> str:
    """The card, the files with their sizes, and where they would go; contacts nothing.

    Raises:
        JudgeError: a text has a secret in it.
    """
    refuse_secrets(upload)
    sizes = {path: _size(content) for path, content in upload.files.items()}
    card = upload.files[CARD]
    assert isinstance(card, bytes)
    return "\n".join(
        [
            card.decode(),
            *(f"{size:>15,} bytes  {path}" for path, size in sizes.items()),
            f"{sum(sizes.values()):>15,} bytes  in {len(sizes)} files",
            f"to: {upload.repo_type} {upload.repo}, {'public' if public else 'private'}",
            "nothing was uploaded (--dry-run)",
        ]
    )


def push(upload: Upload, *, public: bool, force: bool, revision: str | None = None) -> str:
    """Create the repository if there is none, and upload the files in one commit; its address.

    A file of the same name gets a new version, and others stay: the hub keeps the history.

    Args:
        public: make a new repository public. One that is public already needs it, too.
        force: also write into a repository without :data:`TAG`, which somebody else may have made.
        revision: the branch, which is created if there is none (default: main).

    Raises:
        JudgeError: a text has a secret in it, the repository is not ours or public, there is no
            token, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    refuse_secrets(upload)
    if get_token() is None:
        raise JudgeError(
            "no token for the hub; log in with `hf auth login`, or set HF_TOKEN to a token with "
            "write access"
        )
    hub, repo, kind = HfApi(), upload.repo, upload.repo_type
    with _errors_of_the_hub(upload, hub.endpoint):
        hub.create_repo(
            repo,
            repo_type=kind,
            private=not public,
            exist_ok=True,
            space_sdk="static" if kind == "space" else None,
        )
        info: Any = hub.repo_info(repo, repo_type=kind)  # of models, datasets and Spaces alike
        if info.private is False and not public:
            raise JudgeError(f"{repo}: is public already; pass --public to upload to it")
        others = {file.rfilename for file in info.siblings or ()} - {".gitattributes"}
        if others and TAG not in (info.tags or ()) and not force:
            raise JudgeError(
                f"{repo}: has files ({', '.join(sorted(others)[:3])}) and no tag {TAG}, so another "
                "tool wrote it; choose another repository, or pass --force to add to it"
            )
        if revision is not None:
            hub.create_branch(repo, repo_type=kind, branch=revision, exist_ok=True)
        commit = hub.create_commit(
            repo,
            [CommitOperationAdd(path, content) for path, content in upload.files.items()],
            commit_message=upload.message,
            repo_type=kind,
            revision=revision,
        )
    return str(commit.commit_url)


def refuse_secrets(upload: Upload) -> None:
    """
    Raises:
        JudgeError: a text among the files has a secret in it.
    """
    redactor = Redactor()
    for path, content in upload.files.items():
        name = path.rpartition("/")[2]
        if not name.endswith(_TEXTS) or name in _UNREAD:
            continue
        data = content if isinstance(content, bytes) else content.read_bytes()
        text = data.decode("utf-8", "replace")
        if redactor(text) != text:
            raise JudgeError(
                f"{path}: contains a token, key or password; remove it, then push again"
            )


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


@contextmanager
def _errors_of_the_hub(upload: Upload, endpoint: str) -> Iterator[None]:
    """What stops an upload, as one message that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    where = f"{upload.repo_type} {upload.repo}"
    try:
        yield
    except JudgeError:
        raise
    except OfflineModeIsEnabled:
        raise JudgeError(f"{where}: HF_HUB_OFFLINE is set; unset it to upload") from None
    except HfHubHTTPError as error:
        raise JudgeError(f"{where}: {_refusal(error, upload.repo)}") from error
    except ValueError as error:  # what huggingface_hub itself refuses
        raise JudgeError(f"{where}: {first_line(error)}") from error
    except Exception as error:
        # httpx's or httpx2's, by the version of the hub.
        if not (isinstance(error, OSError) or type(error).__module__.startswith("httpx")):
            raise
        raise JudgeError(
            f"{where}: the hub at {endpoint} cannot be reached ({first_line(error)}); nothing was "
            "committed"
        ) from error


def _refusal(error: HfHubHTTPError, repo: str) -> str:
    status, said = error.response.status_code, error.server_message or first_line(error)
    if status == 401:
        return "the hub does not accept the token; log in again (`hf auth login`, or HF_TOKEN)"
    if status == 403:
        owner = repo.partition("/")[0]
        return f"the token may not write there ({said}); expected one with write access to {owner}"
    return f"the hub refused the upload ({said})"
