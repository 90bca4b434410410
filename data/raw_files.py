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
from typing import IO, Any

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.judge_tasks.hub import full_commit, hub_fault
from mtrl_judge.judge_tasks.images import MAX_IMAGE_BYTES
from mtrl_judge.judge_tasks.sources import explain_hub_error, hub_unreachable
from mtrl_judge.judge_tasks.spec import JudgeTask

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
MAX_RANGE = 10_000


class RawFiles(ABC):
    """The files of a dataset by name: their path from the top of the source, with `/`."""

    def __init__(
        self, label: str, files: Iterable[tuple[str, int]], revision: str | None = None
    ) -> None:
        """List the files.

        Args:
            label: names the folder, archive or repository in messages.
            files: names and sizes in bytes; what operating systems and editors add is left out.
            revision: the commit, for a repository on the hub.
        """
        self.label, self.revision = label, revision
        added = re.compile(r"(^|/)(\.[^/]|__MACOSX/)")
        self.sizes = {name: size for name, size in sorted(files) if not added.search(name)}

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """The file for reading from start to end."""

    @abstractmethod
    def local_path(self, name: str) -> Path:
        """A file on this machine with the same content, for random access."""

    def close(self) -> None:  # noqa: B027  optional: only archives hold something open
        """Close the archive, if it is one."""

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """The files whose path, at any depth, or else whose base name matches a pattern.

        Raises:
            DataError: no file matches a pattern.
        """
        found: dict[str, None] = {}
        for pattern in chain.from_iterable(map(expand_range, patterns)):
            for glob in (pattern, PurePosixPath(pattern).name):
                names = [name for name in self.sizes if PurePosixPath(name).match(glob)]
                if names:
                    break
            else:
                listed = ", ".join([*self.sizes][:10]) or "no files"
                more = f" and {len(self.sizes) - 10:,} more" if len(self.sizes) > 10 else ""
                raise DataError(f"{self.label}: found {listed}{more}; expected {pattern}")
            found |= dict.fromkeys(names)
        return [*found]

    def read_image(self, name: str) -> bytes:
        """The content of an image file.

        Raises:
            ValueError: it cannot be read or is larger than MAX_IMAGE_BYTES.
        """
        too_large = ValueError(f"larger than the limit of {MAX_IMAGE_BYTES // 2**20} MiB per image")
        if self.sizes[name] > MAX_IMAGE_BYTES:
            raise too_large
        try:
            with self.open(name) as file:
                data = file.read(MAX_IMAGE_BYTES + 1)
        except (OSError, *_DAMAGED) as error:  # bz2 raises a plain OSError
            raise ValueError(f"cannot be read from {self.label}: {error}") from None
        if len(data) > MAX_IMAGE_BYTES:
            raise too_large
        return data


class Folder(RawFiles):
    """A local folder."""

    def __init__(self, root: Path) -> None:
        """List the files.

        Raises:
            DataError: a file is a link that leads out of the folder.
        """
        self.root = root
        files = [path for path in root.rglob("*") if path.is_file()]
        # The files of a snapshot in the hub's cache are links to its blobs.
        top = root.resolve()
        top = top.parent.parent if top.parent.name == "snapshots" else top
        for file in files:
            if not file.resolve().is_relative_to(top):
                raise DataError(
                    f"{file}: a link to a file outside the folder; nothing was read. To use the "
                    "file, copy it into the folder"
                )
        super().__init__(
            str(root), ((file.relative_to(root).as_posix(), file.stat().st_size) for file in files)
        )

    def open(self, name: str) -> IO[bytes]:
        return self.local_path(name).open("rb")

    def local_path(self, name: str) -> Path:
        return self.root / name


class Archive(RawFiles):
    """A `.zip` file or an uncompressed `.tar` file."""

    def __init__(self, path: Path, spool: Path) -> None:
        """Open an archive.

        Args:
            spool: a folder for copies of members that need random access.

        Raises:
            DataError: the archive is damaged, has a link or a path that leads out of it, or
                members whose compression does not bound how much is decompressed at once.
        """
        self.spool = spool
        self._archive: zipfile.ZipFile | tarfile.TarFile
        self._open: Callable[[Any], IO[bytes] | None]
        try:
            if path.suffix == ".zip":
                self._archive = zipped = zipfile.ZipFile(path)
                self._open = zipped.open
                _check_compression(path, zipped)
                members = [
                    (info.filename, info.file_size, _is_folder(info), _is_link(info))
                    for info in zipped.infolist()
                ]
            else:
                self._archive = tar = tarfile.open(path, "r:")  # noqa: SIM115  see close()
                self._open = tar.extractfile
                members = [
                    (info.name, info.size, info.isdir(), not (info.isfile() or info.isdir()))
                    for info in tar.getmembers()
                ]
        except (OSError, *_DAMAGED) as error:
            raise DataError(
                f"{path}: not a complete {path.suffix} file ({error}); download it again"
            ) from None
        for name, _, _, is_link in members:
            if _leaves_folder(name) or is_link:
                what = "is a link" if is_link else "leads out of the archive"
                raise DataError(f"{path}: member {name!r} {what}; nothing was read from it")
        files = ((name, size) for name, size, is_folder, _ in members if not is_folder)
        super().__init__(str(path), files)

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

        self.task, repo = task, str(task.dataset_path)
        if fault := hub_fault():
            raise hub_unreachable(task, fault)
        try:
            hub = HfApi()
            revision = full_commit(repo, task.revision)
            info = hub.dataset_info(repo, revision=revision, files_metadata=True)
        except Exception as error:
            raise explain_hub_error(task, error) from error
        files = ((file.rfilename, file.size or 0) for file in info.siblings or ())
        super().__init__(repo, files, info.sha)

    def open(self, name: str) -> IO[bytes]:
        return self.local_path(name).open("rb")

    def local_path(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(self.label, name, repo_type="dataset", revision=self.revision)
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

    Raises:
        DataError: it stands for more than MAX_RANGE names.
    """
    match = re.search(r"\{(\d{1,9})-(\d{1,9})\}", pattern)
    if match is None:
        return [pattern]
    numbers = range(int(match[1]), int(match[2]) + 1)
    if len(numbers) > MAX_RANGE:
        raise DataError(
            f"{pattern}: stands for {len(numbers):,} files; expected up to {MAX_RANGE:,}"
        )
    return [f"{pattern[: match.start()]}{number}{pattern[match.end() :]}" for number in numbers]


def _is_folder(member: zipfile.ZipInfo) -> bool:
    return member.filename.endswith("/")  # `is_dir` raises for an empty name in Python 3.11


def _is_link(member: zipfile.ZipInfo) -> bool:
    # The upper four bits of a Unix mode, which are 0o12 for a symbolic link.
    return member.external_attr >> 28 == 0o12


def _check_compression(path: Path, archive: zipfile.ZipFile) -> None:
    """Zipfile decompresses what it has read of LZMA and bzip2 at once: 16 MB can become 100 GB."""
    for info in archive.infolist():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"{path}: member {info.filename!r} is compressed by method {info.compress_type}; "
                "expected stored or deflated members. Make the archive again with `zip`"
            )


def _leaves_folder(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or bool(re.match("[A-Za-z]:", name))
