"""Files fetched once from the first mirror that has them, with checksums and a progress bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imc_ssm.errors import DataError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["cache_folder", "fetch"]

_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces


def cache_folder() -> Path:
    """The user's cache of this library."""
    import pooch

    return Path(pooch.os_cache("imc-ssm")).expanduser()


def fetch(files: Mapping[str, str | None], mirrors: Sequence[str], folder: Path) -> None:
    """Download each file (name to SHA-256) into `folder` unless a good copy is there already.

    Each mirror is a URL that a file name is appended to, unless it is that of a zip; they are tried in order for
    every file. A digest of None: the caller checks the content, since the archive may be packed anew. A file
    appears under its name only when complete and of the right digest. Raises `DataError` that names each
    mirror and what went wrong with it.
    """
    import logging

    import pooch
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create the cache {folder}: {error.strerror or error}") from None
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)  # the progress bar says what it says
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            for name, digest in files.items():
                _fetch_one(name, digest, mirrors, folder, progress)
    finally:
        logger.setLevel(level)


def _fetch_one(name: str, digest: str | None, mirrors: Sequence[str], folder: Path, progress: Progress) -> None:
    """One file from the first mirror that delivers it."""
    import pooch

    failures = []
    bar = _Bar(progress, progress.add_task(name, total=None))
    for mirror in mirrors:
        try:
            pooch.retrieve(
                url=mirror if mirror.endswith(".zip") else mirror + name,
                known_hash=None if digest is None else f"sha256:{digest}",
                fname=name,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=bar, timeout=_TIMEOUT, chunk_size=1 << 16),
            )
            return
        except Exception as error:  # no network, no such file, wrong digest, full disk: the next may do
            failures.append(f"{mirror} ({_cause(error)})")
    raise DataError(f"{name} could not be downloaded; tried {' and '.join(failures)}")


def _cause(error: Exception) -> str:
    """The short form of a failed download: messages of the HTTP library fill a screen."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "wrong checksum"
    return getattr(error, "strerror", None) or type(error).__name__


class _Bar:
    """One line of rich's progress, as pooch expects a progress bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    @property
    def total(self) -> float | None:
        """Bytes expected."""
        return self._progress.tasks[self._task].total

    @total.setter
    def total(self, total: int) -> None:
        self._progress.reset(self._task, total=total or None)

    def update(self, count: int) -> None:
        """`count` more bytes have arrived."""
        self._progress.update(self._task, advance=count)

    def reset(self) -> None:
        """Start again at zero."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """The file is complete."""
