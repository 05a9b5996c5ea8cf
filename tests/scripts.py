"""Scripts of `experiments` as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def script_of(path: Path) -> ModuleType:
    """The module that a file is, made anew; named after its folder."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
