"""Where a dataset's files lie: a folder, an archive of one, or a repository on the hub.

Archives are never unpacked: members are read by name, and what would leave the folder is refused.
"""

from __future__ import annotations

import fnmatch
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Protocol

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.judge_tasks.sources import explain_hub_error
from mtrl_judge.judge_tasks.spec import JudgeTask

# A 100-megapixel picture of 16 bits in three channels is 600 MB before compression; pictures that
# people judge are a hundredth of that.
MAX_PICTURE_BYTES = 256 * 2**20
ARCHIVES = (".zip", ".tar")
# Wrong checksums, cut or garbled data of each kind of compression, another kind, a password.
_BROKEN_MEMBER = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


class FileThere(NamedTuple):
    """One file of a place."""

    name: str
    """Its path from the place's top, with `/`."""
    size: int


class Place(Protocol):
    """Files by name."""

    label: str
    """How a message names the place."""

    @property
    def revision(self) -> str | None: ...

    def files(self) -> list[FileThere]: ...

    def local(self, name: str) -> Path:
        """The file on this machine, to be read at random."""

    def picture(self, name: str) -> bytes:
        """The bytes of a picture; no more than a picture has.

        Raises:
            ValueError: it is larger, or the archive's copy is broken.
        """

    def close(self) -> None: ...


class Folder:
    """A folder of the user's."""

    revision: str | None = None

    def __init__(self, root: Path) -> None:
        self.root, self.label = root, str(root)

    def files(self) -> list[FileThere]:
        found = (path for path in self.root.rglob("*") if path.is_file())
        return _listed(
            (path.relative_to(self.root).as_posix(), path.stat().st_size) for path in found
        )

    def local(self, name: str) -> Path:
        return self.root / name

    def picture(self, name: str) -> bytes:
        try:
            with (self.root / name).open("rb") as file:
                return _bounded(file)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None

    def close(self) -> None: ...


class ZipArchive:
    """A zip file; what must be read at random is spooled into a folder."""

    revision: str | None = None

    def __init__(self, path: Path, spool: Path) -> None:
        self.label, self.spool = str(path), spool
        try:
            self.archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: is no whole zip file ({error}); fetch it again") from None
        for info in self.archive.infolist():
            _refuse_escape(path, info.filename, linked=(info.external_attr >> 28) == 0o12)

    def files(self) -> list[FileThere]:
        infos = (info for info in self.archive.infolist() if not info.is_dir())
        return _listed((info.filename, info.file_size) for info in infos)

    def local(self, name: str) -> Path:
        try:
            with self.archive.open(name) as file:
                return _spooled(file, name, self.spool)
        except _BROKEN_MEMBER as error:
            raise DataError(f"{self.label}: {name} is broken ({error}); fetch it again") from None

    def picture(self, name: str) -> bytes:
        try:
            with self.archive.open(name) as file:
                return _bounded(file)
        except (*_BROKEN_MEMBER, OSError) as error:  # bz2 has no error of its own
            raise ValueError(f"broken in its archive: {error}") from None

    def close(self) -> None:
        self.archive.close()


class TarArchive:
    """A tar file that is not compressed, for the same."""

    revision: str | None = None

    def __init__(self, path: Path, spool: Path) -> None:
        self.label, self.spool = str(path), spool
        try:
            self.archive = tarfile.open(path, "r:")  # noqa: SIM115  closed with the place
            members = self.archive.getmembers()
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{path}: is no whole tar file ({error}); fetch it again") from None
        for member in members:
            _refuse_escape(path, member.name, linked=not (member.isfile() or member.isdir()))
        self.members = {member.name: member for member in members if member.isfile()}

    def files(self) -> list[FileThere]:
        return _listed((name, member.size) for name, member in self.members.items())

    def _open(self, name: str) -> IO[bytes]:
        file = self.archive.extractfile(self.members[name])
        assert file is not None
        return file

    def local(self, name: str) -> Path:
        with self._open(name) as file:
            return _spooled(file, name, self.spool)

    def picture(self, name: str) -> bytes:
        try:
            with self._open(name) as file:
                return _bounded(file)
        except tarfile.TarError as error:
            raise ValueError(f"broken in its archive: {error}") from None

    def close(self) -> None:
        self.archive.close()


class HubRepository:
    """A dataset's repository on the hub, at one revision."""

    def __init__(self, task: JudgeTask) -> None:
        from huggingface_hub import HfApi

        self.task, self.label = task, str(task.dataset_path)
        try:
            hub = HfApi()
            revision = _whole_commit(hub, self.label, task.revision)
            info = hub.repo_info(
                self.label, repo_type="dataset", revision=revision, files_metadata=True
            )
        except Exception as error:
            raise explain_hub_error(task, error) from error
        self.revision: str | None = info.sha
        self.siblings: Sequence[Any] = getattr(info, "siblings", None) or ()

    def files(self) -> list[FileThere]:
        return _listed((each.rfilename, each.size or 0) for each in self.siblings)

    def local(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        try:
            found = hf_hub_download(
                self.label, name, repo_type="dataset", revision=self.revision or self.task.revision
            )
        except Exception as error:
            raise explain_hub_error(self.task, error) from error
        return Path(found)

    def picture(self, name: str) -> bytes:
        with self.local(name).open("rb") as file:
            return _bounded(file)

    def close(self) -> None: ...


def _whole_commit(hub: Any, repo: str, revision: str | None) -> str | None:
    """The commit that a shortened one means; the hub itself does not take one (its download guide).

    What looks like none, or is none of the main branch's, stays as it is.
    """
    if revision is None or not re.fullmatch("[0-9a-f]{7,39}", revision):
        return revision
    newest = str(hub.repo_info(repo, repo_type="dataset").sha)
    if newest.startswith(revision):
        return newest
    commits = (each.commit_id for each in hub.list_repo_commits(repo, repo_type="dataset"))
    return next((commit for commit in commits if commit.startswith(revision)), revision)


def find_place(path: Path, spool: Path) -> Place:
    """A folder or archive of the user's.

    Raises:
        JudgeError: it is neither, or an archive that is broken or would write outside its folder.
    """
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        raise JudgeError(f"--from: no folder or archive {path}")
    if path.suffix == ".zip":
        return ZipArchive(path, spool)
    if path.suffix == ".tar":
        return TarArchive(path, spool)
    raise JudgeError(
        f"--from: {path} is no folder, {' or '.join(ARCHIVES)} file; unpack it and name its folder"
    )


def expanded(pattern: str) -> list[str]:
    """The names that a pattern with a range stands for.

    >>> expanded("train_{1-3}.zip"), expanded("*.csv")
    (['train_1.zip', 'train_2.zip', 'train_3.zip'], ['*.csv'])
    """
    match = re.search(r"\{(\d+)-(\d+)\}", pattern)
    if match is None:
        return [pattern]
    numbers = range(int(match[1]), int(match[2]) + 1)
    return [f"{pattern[: match.start()]}{number}{pattern[match.end() :]}" for number in numbers]


def matching(place: Place, patterns: Iterable[str]) -> list[FileThere]:
    """The files that patterns name, at any depth; by their base names where no path fits.

    Raises:
        DataError: a pattern matches nothing, with what was expected and what is there.
    """
    there = place.files()
    found: dict[str, FileThere] = {}
    for pattern in chain.from_iterable(map(expanded, patterns)):
        base = PurePosixPath(pattern).name
        own = [file for file in there if fnmatch.fnmatchcase(f"/{file.name}", f"*/{pattern}")] or [
            file for file in there if fnmatch.fnmatchcase(PurePosixPath(file.name).name, base)
        ]
        if not own:
            shown = ", ".join(file.name for file in there[:10]) or "nothing"
            more = f" and {len(there) - 10:,} more" if len(there) > 10 else ""
            raise DataError(f"{place.label}: expected {pattern}; there: {shown}{more}")
        found |= {file.name: file for file in own}
    return list(found.values())


def _listed(files: Iterable[tuple[str, int]]) -> list[FileThere]:
    """In order, without what systems and editors put beside a user's files."""
    own = (FileThere(*file) for file in files)
    return sorted(file for file in own if not re.search(r"(^|/)(\.[^/]|__MACOSX/)", file.name))


def _refuse_escape(archive: Path, name: str, *, linked: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or re.match(r"^[A-Za-z]:", name)
    if outside or linked:
        what = "is a link" if linked else "leads out of its folder"
        raise DataError(f"{archive}: {name!r} {what}; the archive is refused, nothing was read")


def _bounded(file: IO[bytes]) -> bytes:
    data = file.read(MAX_PICTURE_BYTES + 1)
    if len(data) > MAX_PICTURE_BYTES:
        raise ValueError(f"over {MAX_PICTURE_BYTES // 2**20} MiB, which no picture to judge is")
    return data


def _spooled(file: IO[bytes], name: str, spool: Path) -> Path:
    path = spool / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as copy:
        shutil.copyfileobj(file, copy, 2**20)
    return path
