"""Where the files of a task are looked for, and how their absence is said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from imc_ssm.datasets.download import cache_folder
from imc_ssm.errors import DataError

__all__ = ["find", "folders"]


def folders(data_dir: str | Path | None, holds: str) -> list[tuple[Path, str]]:
    """The folders of the user, in the order of the search, each with its name in messages: `data_dir`, then the
    environment variable `IMC_SSM_DATA`. `DataError` if `data_dir`, which should hold `holds`, is no folder."""
    looked = []
    if data_dir is not None:
        folder = Path(data_dir).expanduser()
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}; give a --data-dir that holds {holds}")
        looked.append((folder, f"{folder} (--data-dir)"))
    if os.environ.get("IMC_SSM_DATA"):
        folder = Path(os.environ["IMC_SSM_DATA"]).expanduser()
        looked.append((folder, f"{folder} (IMC_SSM_DATA)"))
    return looked


def find(task: str, data_dir: str | Path | None, names: Sequence[str]) -> tuple[Path | None, str]:
    """The first of `names` (files or folders, "." is the folder itself) in the user's folders and the cache, and
    where it was looked for. A name that has a `*` stands for the first match."""
    looked = [*folders(data_dir, " or ".join(names)), (cache_folder(), f"{cache_folder()} (cache)")]
    for folder, _ in looked:
        for name in names:
            matches = sorted(folder.glob(name)) if "*" in name else [folder / name]
            for path in matches:
                if path.exists():
                    return path, ""
    return None, f"{task}: no {' or '.join(names)} in {', '.join(where for _, where in looked)}"
