"""The command `export`: a model's integers, for hardware and firmware."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imc_ssm.cli.inputs import data_of
from imc_ssm.cli.options import DataDir, TaskName
from imc_ssm.cli.report import console
from imc_ssm.errors import FileError, ImcSsmError

__all__ = ["export"]


def export(
    model: Annotated[Path, typer.Argument(help="Quantized model file, as written by `quantize`.")],
    out: Annotated[Path, typer.Option(help="Folder to write: bundle.json, bundle.safetensors and check.py.")],
    sequences: Annotated[
        int, typer.Option(min=1, help="Golden sequences: so many test sequences, drawn by the seed.")
    ] = 4,
    dataset: TaskName = None,
    data_dir: DataDir = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed that draws the sequences.")] = 0,
) -> None:
    """Write a quantized model's integers, with the codes of every signal of a few golden sequences."""
    import numpy as np

    from imc_ssm.files import check_writable
    from imc_ssm.modelfile import load_model
    from imc_ssm.quantization import export_integers

    if out.suffix:
        raise FileError(f"cannot write {out}: give the name of a folder, without an ending")
    check_writable(out / "bundle.json")
    stored = load_model(model)
    if stored.scheme is None:
        raise ImcSsmError(f"{model} is in full precision and has no integers; quantize it first: imc-ssm quantize")
    data, _ = data_of(stored, dataset, data_dir)
    part = data.split("test").sample(sequences, np.random.default_rng(seed))
    bundle = export_integers(stored.model, out, part.values, part.lengths, name=model.stem)
    count = sum(array.size for name, array in bundle.arrays.items() if name.startswith("golden/"))
    console.print(
        f"{out}: {len(bundle.head['operators'])} operators, {count:,} golden codes; python {out}/check.py {out}"
    )
