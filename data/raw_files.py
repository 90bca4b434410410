"""The files that a dataset is published as: in a folder, in an archive, or on the hub.

Archives are never unpacked: their members are read by name.
"""

from __future__ import annotations

import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.judge_tasks.sources import explain_hub_error
from mtrl_judge.judge_tasks.spec import JudgeTask

# A 100-megapixel image with three channels of 16 bits is 600 MB before compression; the images of
# judge datasets are a hundredth of that.
MAX_IMAGE_BYTES = 256 * 2**20
# zipfile and tarfile raise these for members with a wrong checksum, truncated or invalid data, an
# unsupported compression or a password.
_DAMAGED = (
    EOFError,
    NotImplementedError,
    RuntimeError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


class RawFile(NamedTuple):
    """One file of a dataset."""

    name: str
    """Path from the top of the folder, archive or repository, with `/`."""
    size: int
    """Bytes."""


class RawFiles(ABC):
    """The files of a dataset by name."""

    label: str
    """Names the folder, archive or repository in messages."""
    revision: str | None = None
    """The commit, for a repository on the hub."""

    @abstractmethod
    def entries(self) -> Iterable[tuple[str, int]]:
        """Name and size of every file, in any order."""

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """The file for reading from start to end."""

    @abstractmethod
    def local_path(self, name: str) -> Path:
        """A file on this machine with the same content, for random access."""

    def close(self) -> None:  # noqa: B027  optional: only archives hold something open
        """Close the archive, if it is one."""

    def files(self) -> list[RawFile]:
        """All files by name, except those that operating systems and editors add."""
        files = (RawFile(*entry) for entry in self.entries())
        return sorted(
            file for file in files if not re.search(r"(^|/)(\.[^/]|__MACOSX/)", file.name)
        )

    def matching(self, patterns: Iterable[str]) -> list[RawFile]:
        """The files whose path, at any depth, or else whose base name fits a pattern.

        Raises:
            DataError: no file fits a pattern.
        """
        files = self.files()
        found: dict[str, RawFile] = {}
        for pattern in chain.from_iterable(map(expand_range, patterns)):
            base = PurePosixPath(pattern).name
            fitting = [f for f in files if PurePosixPath(f.name).match(pattern)] or [
                f for f in files if PurePosixPath(f.name).match(base)
            ]
            if not fitting:
                listed = ", ".join(file.name for file in files[:10]) or "no files"
                more = f" and {len(files) - 10:,} more" if len(files) > 10 else ""
                raise DataError(f"{self.label}: found {listed}{more}; expected {pattern}")
            found |= {file.name: file for file in fitting}
        return list(found.values())

    def read_image(self, name: str) -> bytes:
        """The content of an image file.

        Raises:
            ValueError: it cannot be read or is larger than MAX_IMAGE_BYTES.
        """
        try:
            with self.open(name) as file:
                data = file.read(MAX_IMAGE_BYTES + 1)
        except (OSError, *_DAMAGED) as error:  # bz2 raises a plain OSError
            raise ValueError(f"cannot be read from {self.label}: {error}") from None
        if len(data) > MAX_IMAGE_BYTES:
            raise ValueError(f"larger than the limit of {MAX_IMAGE_BYTES // 2**20} MiB per image")
        return data


class Folder(RawFiles):
    """A local folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.label = root, str(root)

    def entries(self) -> Iterable[tuple[str, int]]:
        for path in self.root.rglob("*"):
            if path.is_file():
                yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def open(self, name: str) -> IO[bytes]:
        return (self.root / name).open("rb")

    def local_path(self, name: str) -> Path:
        return self.root / name


class Archive(RawFiles):
    """A `.zip` file or an uncompressed `.tar` file."""

    def __init__(self, path: Path, spool: Path) -> None:
        """Open an archive.

        Args:
            spool: a folder for copies of members that need random access.

        Raises:
            DataError: the archive is damaged, or has a link or a path that leads out of it.
        """
        self.label, self.spool = str(path), spool
        self._archive: zipfile.ZipFile | tarfile.TarFile
        self._open: Callable[[Any], IO[bytes] | None]
        try:
            if path.suffix == ".zip":
                self._archive = zipped = zipfile.ZipFile(path)
                self._open = zipped.open
                members = [
                    # The upper four bits of a Unix mode, which are 0o12 for a symbolic link.
                    (info.filename, info.file_size, info.is_dir(), info.external_attr >> 28 == 0o12)
                    for info in zipped.infolist()
                ]
            else:
                self._archive = tar = tarfile.open(path, "r:")  # noqa: SIM115  see close()
                self._open = tar.extractfile
                members = [
                    (info.name, info.size, info.isdir(), not (info.isfile() or info.isdir()))
                    for info in tar.getmembers()
                ]
        except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
            raise DataError(
                f"{path}: not a complete {path.suffix} file ({error}); download it again"
            ) from None
        for name, _, _, is_link in members:
            if is_link or _leaves_folder(name):
                what = "is a link" if is_link else "leads out of the archive"
                raise DataError(f"{path}: member {name!r} {what}; nothing was read from it")
        self._sizes = {name: size for name, size, is_folder, _ in members if not is_folder}

    def entries(self) -> Iterable[tuple[str, int]]:
        return self._sizes.items()

    def open(self, name: str) -> IO[bytes]:
        file = self._open(name)
        assert file is not None, "only folders and links of a tar file have no content"
        return file

    def local_path(self, name: str) -> Path:
        path = self.spool / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.open(name) as member, path.open("wb") as copy:
                shutil.copyfileobj(member, copy, 2**20)
        except _DAMAGED as error:
            raise DataError(f"{self.label}: {name}: damaged ({error}); download it again") from None
        return path

    def close(self) -> None:
        self._archive.close()


class HubRepository(RawFiles):
    """A dataset's repository on the hub, at the revision of the task's YAML."""

    def __init__(self, task: JudgeTask) -> None:
        from huggingface_hub import HfApi

        self.task, self.label = task, str(task.dataset_path)
        try:
            hub = HfApi()
            revision = _full_commit(hub, self.label, task.revision)
            info = hub.repo_info(
                self.label, repo_type="dataset", revision=revision, files_metadata=True
            )
        except Exception as error:
            raise explain_hub_error(task, error) from error
        self.revision = info.sha
        self._siblings = getattr(info, "siblings", None) or ()

    def entries(self) -> Iterable[tuple[str, int]]:
        return ((file.rfilename, file.size or 0) for file in self._siblings)

    def open(self, name: str) -> IO[bytes]:
        return self.local_path(name).open("rb")

    def local_path(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        revision = self.revision or self.task.revision
        try:
            path = hf_hub_download(self.label, name, repo_type="dataset", revision=revision)
        except Exception as error:
            raise explain_hub_error(self.task, error) from error
        return Path(path)


def open_source(path: Path, spool: Path) -> RawFiles:
    """A user's folder or archive.

    Args:
        spool: as for :class:`Archive`.

    Raises:
        JudgeError: it is neither, or a damaged or unsafe archive.
    """
    if path.is_dir():
        return Folder(path)
    if path.is_file() and path.suffix in (".zip", ".tar"):
        return Archive(path, spool)
    found = "another kind of file" if path.is_file() else "nothing"
    raise JudgeError(f"--from: {path}: found {found}; expected a folder, a .zip or a .tar file")


def expand_range(pattern: str) -> list[str]:
    """The names that a pattern with a range of numbers stands for.

    >>> expand_range("train_{1-3}.zip"), expand_range("*.csv")
    (['train_1.zip', 'train_2.zip', 'train_3.zip'], ['*.csv'])
    """
    match = re.search(r"\{(\d+)-(\d+)\}", pattern)
    if match is None:
        return [pattern]
    numbers = range(int(match[1]), int(match[2]) + 1)
    return [f"{pattern[: match.start()]}{number}{pattern[match.end() :]}" for number in numbers]


def _full_commit(hub: Any, repo: str, revision: str | None) -> str | None:
    """The commit of the main branch that a shortened hash means; any other revision unchanged.

    The hub does not resolve shortened hashes itself (huggingface_hub's download guide).
    """
    if revision is None or not re.fullmatch("[0-9a-f]{7,39}", revision):
        return revision
    commits = (commit.commit_id for commit in hub.list_repo_commits(repo, repo_type="dataset"))
    return next((commit for commit in commits if commit.startswith(revision)), revision)


def _leaves_folder(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or bool(re.match("[A-Za-z]:", name))
