"""What points of a sweep share: data, trained and quantized models, deployments, evaluations; each is made once.

Models lie in the folder of the sweep under the key of what made them, so that processes share them; a lock lets
one of them train. Deployments and evaluations are kept by the process, the last few.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imc_ssm.modelfile import StoredModel, load_model, save_model
from imc_ssm.study.ledger import locked

if TYPE_CHECKING:
    from imc_ssm.datasets import SequenceDataset
    from imc_ssm.training import Progress

__all__ = ["Workshop"]

T = TypeVar("T")
KEPT = {"model": 4, "deployment": 8, "evaluation": 4096, "chip": 256, "study": 2, "firsts": 1}
"""How many of each a process keeps."""


class Workshop:
    """A folder with models, and what one process remembers."""

    def __init__(self, folder: Path, data_dir: Path | None = None, progress: Progress | None = None) -> None:
        self.folder, self.data_dir, self.progress = folder, data_dir, progress
        self._kept: dict[str, OrderedDict[str, Any]] = {kind: OrderedDict() for kind in KEPT}
        self._data: dict[str, SequenceDataset] = {}

    def data(self, task: str) -> SequenceDataset:
        """The sequences of a task, read once."""
        from imc_ssm import datasets

        if task not in self._data:
            self._data[task] = datasets.load(task, self.data_dir)
        return self._data[task]

    def kept(self, kind: str, key: str, make: Callable[[], T]) -> T:
        """What `make` makes, remembered under a key."""
        kept = self._kept[kind]
        if key not in kept:
            kept[key] = make()
            if len(kept) > KEPT[kind]:
                kept.popitem(last=False)
        kept.move_to_end(key)
        made: T = kept[key]
        return made

    def path(self, key: str) -> Path:
        """Where the model of a key lies."""
        return self.folder / "models" / f"{key}.safetensors"

    def model(self, key: str, make: Callable[[Path], StoredModel]) -> StoredModel:
        """The model of a key, from its file, or made once by whichever process comes first.

        `make` gets a path for a checkpoint, so that an interrupted training goes on.
        """

        def found() -> StoredModel:
            path = self.path(key)
            if not path.exists():
                with locked(self.folder / "locks" / f"model-{key}.lock"):
                    if not path.exists():
                        checkpoint = path.with_name(f".{key}.checkpoint.safetensors")
                        save_model(path, make(checkpoint))
                        checkpoint.unlink(missing_ok=True)
            return load_model(path)  # read back, so that every process has the same bits

        return self.kept("model", key, found)
