"""Images that a table names by web address.

Addresses are untrusted: they could lead into the user's own network, to endless files or to servers
that never end an answer. So nothing is fetched unless the user asks for it, names are resolved here
and only public addresses are connected to, and every answer has limits.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import Event, Lock

import httpx

from mtrl_judge.common.errors import DataError
from mtrl_judge.common.files import json_text, sync_to_disk, write_text
from mtrl_judge.common.hashing import digest
from mtrl_judge.common.progress import ProgressCallback

MAX_BYTES = 64 * 2**20
"""Of one image. Those of web datasets are a hundredth of it."""
MAX_REDIRECTS = 5
MAX_SECONDS = 120.0
"""Of one try, however slowly a server sends."""
TRIES = 3
TIMEOUT = httpx.Timeout(30, connect=10)
WAIT = 1.0
"""Seconds before the second try; twice as long before the third."""
_MAX_WAIT = 30.0
_WORKERS = 8
_MAX_ADDRESS = 8_192
_BUSY = (408, 425, 429, 500, 502, 503, 504)


class _BusyError(Exception):
    """A fault that another try may not have.

    Args:
        why: for the user.
        seconds: to wait, if the server says so.
    """

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        super().__init__(why)
        self.seconds = seconds


class Downloads:
    """A folder of fetched images, each complete or absent, by a hash of its address.

    Args:
        limit: bytes of all images together.
        private_hosts: `host:port` that may be asked although they are not public.
    """

    def __init__(self, folder: Path, limit: float, private_hosts: Collection[str] = ()) -> None:
        self.folder, self.limit, self.private_hosts = folder, limit, private_hosts
        self.failed: dict[str, str] = {}
        """Why an address could not be fetched."""
        self._total, self._lock, self._stopped = 0, Lock(), Event()

    def fetch(self, urls: Iterable[str], progress: ProgressCallback) -> None:
        """Fetch what is not there yet.

        Raises:
            DataError: the limit is exceeded.
            JudgeError: an image cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = [*dict.fromkeys(urls)]
        there = {url: self._file(url).stat().st_size for url in wanted if self._file(url).is_file()}
        self._total = sum(there.values())
        missing = [url for url in wanted if url not in there]
        done = len(there)
        progress("downloading", done, len(wanted))
        # A connection belongs to the address it was made to, and not to a host of its name.
        limits = httpx.Limits(max_keepalive_connections=0)
        headers = {
            "User-Agent": f"mtrl-judge/{version('mtrl-judge')}",
            "Accept-Encoding": "identity",
        }
        with (
            httpx.Client(
                limits=limits, timeout=TIMEOUT, headers=headers, trust_env=False
            ) as client,
            self._workers() as pool,
        ):
            running = {pool.submit(self._fetch, client, url): url for url in missing}
            for future in as_completed(running):
                why = future.result()
                if why is not None:
                    self.failed[running[future]] = why
                done += 1
                progress("downloading", done, len(wanted))

    def read(self, url: str) -> bytes:
        """A fetched image.

        Raises:
            ValueError: it could not be fetched.
        """
        if url in self.failed or not self._file(url).is_file():
            raise ValueError(self.failed.get(url, "was not downloaded"))
        return self._file(url).read_bytes()

    def write_manifest(self, urls: Iterable[str], file: Path) -> None:
        """What was fetched from which address, and why not, as JSON lines."""
        lines = []
        for url in sorted(set(urls)):
            about: dict[str, object] = {"url": url}
            if url in self.failed:
                about["failed"] = self.failed[url]
            else:
                data = self._file(url).read_bytes()
                about |= {"bytes": len(data), "digest": digest([data])}
            lines.append(json_text(about, indent=None) + "\n")
        write_text(file, "".join(lines))

    def reasons(self) -> str:
        """Why addresses could not be fetched, with the number of each reason and an example."""
        counts = Counter(self.failed.values()).most_common(10)
        examples = {why: url for url, why in self.failed.items()}
        return "\n".join(f"  {n:,} × {why}, such as {examples[why][:200]!r}" for why, n in counts)

    def _file(self, url: str) -> Path:
        return self.folder / digest([url.encode("utf-8", "surrogatepass")])

    @contextmanager
    def _workers(self) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(_WORKERS)
        try:
            yield pool
        except BaseException:
            self._stopped.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _fetch(self, client: httpx.Client, url: str) -> str | None:
        """Fetch one image; why it cannot be, if so."""
        for tried in range(1, TRIES + 1):
            try:
                self._get(client, url)
                return None
            except _BusyError as error:
                why, seconds = str(error), error.seconds
            except httpx.TransportError as error:
                why, seconds = f"{type(error).__name__}: {error}".rstrip(": "), 0.0
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ValueError) as error:
                return str(error) or type(error).__name__
            wait = min(_MAX_WAIT, max(seconds, WAIT * 2 ** (tried - 1)))
            if tried < TRIES and self._stopped.wait(wait):
                break
        return why

    def _get(self, client: httpx.Client, url: str) -> None:
        ends, current = time.monotonic() + MAX_SECONDS, url
        for _ in range(MAX_REDIRECTS + 1):
            if len(current) > _MAX_ADDRESS:
                raise ValueError(f"an address of more than {_MAX_ADDRESS:,} characters")
            target = httpx.URL(current)
            request = client.build_request(
                "GET",
                target.copy_with(host=self._address(target), userinfo=b""),
                headers={"Host": target.netloc.decode("ascii")},
                extensions={"sni_hostname": target.host},
            )
            response = client.send(request, stream=True)
            try:
                if not response.has_redirect_location:
                    self._keep(url, response, ends)
                    return
                current = str(target.join(response.headers["Location"]))
            finally:
                response.close()
        raise ValueError(f"more than {MAX_REDIRECTS} redirects")

    def _address(self, url: httpx.URL) -> str:
        """The public address of a host.

        Raises:
            ValueError: it has none, or the address is not one of the web.
            _BusyError: the name cannot be resolved.
        """
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"{url.scheme or 'no'} address; expected http or https")
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        try:
            found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise _BusyError(f"{url.host}: {error.strerror or error}") from None
        addresses = [str(entry[4][0]) for entry in found]
        if f"{url.host}:{port}" in self.private_hosts:
            return addresses[0]
        if not all(map(_is_public, addresses)):
            private = next(address for address in addresses if not _is_public(address))
            raise ValueError(f"{url.host}:{port} is {private}, which is not a public address")
        return addresses[0]

    def _keep(self, url: str, response: httpx.Response, ends: float) -> None:
        """Write the content of an answer, if it can be an image."""
        status = f"{response.status_code} {response.reason_phrase[:60]}".strip()
        if response.status_code in _BUSY:
            raise _BusyError(status, _seconds(response.headers.get("Retry-After", "")))
        if response.status_code != 200:
            raise ValueError(status)
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind.startswith("text/") or response.headers.get("Content-Encoding", "identity") != (
            "identity"
        ):
            raise ValueError(f"no image but {kind[:60] or 'compressed data'}")
        part = self._file(url).with_suffix(".part")  # no other process writes this data root
        size = 0
        try:
            with part.open("wb") as file:
                for chunk in response.iter_raw():
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise ValueError(f"larger than the limit of {MAX_BYTES // 2**20} MiB")
                    if time.monotonic() > ends:
                        raise _BusyError(f"takes more than {MAX_SECONDS:g} seconds")
                    self._count(len(chunk))
                    file.write(chunk)
            if not size:
                raise ValueError("an empty answer")
            sync_to_disk(part)
            part.replace(self._file(url))
        finally:
            part.unlink(missing_ok=True)

    def _count(self, n: int) -> None:
        with self._lock:
            self._total += n
            if self._stopped.is_set() or self._total > self.limit:
                self._stopped.set()
                raise DataError(
                    f"the images have more than {self.limit / 1e9:g} GB together; allow more with "
                    "--download-limit, and run the command again to resume"
                )


def hosts(urls: Iterable[str]) -> Mapping[str, int]:
    """How many addresses each host has."""
    return Counter(url.split("/", 3)[2].lower() for url in urls)


def is_address(cell: object) -> bool:
    return isinstance(cell, str) and cell.lower().startswith(("http://", "https://"))


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() and len(text) < 9 else 0.0
