"""Files that users bring: checkpoints of other programs and tables of measured devices."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from fuzz_loaders import add, sane_cell, whole
from fuzz_mutations import broken_arrays, broken_bytes, broken_text
from fuzz_results import LOADERS
from safetensors.torch import save as save_safetensors

import imc_ssm
from imc_ssm.foreign import read_tensors

CHECKPOINTS = sorted((Path(__file__).parent.parent / "foreign" / "data").glob("*.pt"))


@cache
def foreign(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in read_tensors(path).items()}


class _Evil:
    """What a pickle could run."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('a pickle ran code')",))


def broken_checkpoint(folder: Path, rng: Random) -> Path:
    source = rng.choice(CHECKPOINTS)
    path, how = folder / rng.choice(("m.pt", "m.ckpt")), rng.random()
    if how < 0.25:
        path.write_bytes(broken_bytes(source.read_bytes(), rng))
        return path
    arrays = broken_arrays(foreign(source), rng)
    tensors: Any = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    if how > 0.7:
        path = folder / "m.safetensors"
        path.write_bytes(save_safetensors({name: tensor.contiguous() for name, tensor in tensors.items()}))
        return path
    chosen = rng.choice(sorted(tensors)) if tensors else "x"
    odd = (None, 3, [1], {}, "x", torch.zeros(2, dtype=torch.complex64), torch.zeros(3, dtype=torch.bfloat16))
    if how > 0.6:
        tensors[chosen] = rng.choice(odd)
    elif how > 0.55:
        tensors[rng.choice((3, ("a",), chosen))] = _Evil() if rng.random() < 0.5 else torch.zeros(1)
    elif how > 0.5:
        tensors = rng.choice((list(tensors.values()), {"state_dict": tensors}, {"model": {}}, torch.zeros(3), {}))
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    path.write_bytes(buffer.getvalue())
    return path


def sane_foreign(model: Any) -> bool:
    return all(whole(value) for value in model.state_dict().values())


add("checkpoint of another program", broken_checkpoint, imc_ssm.load_foreign, sane_foreign)


@cache
def readings() -> str:
    rng = np.random.default_rng(0)
    target = np.tile(np.linspace(1, 25, 12), 8)
    measured = np.maximum(target * (1 + 0.03 * rng.normal(size=target.size)), 0.01)
    time = np.repeat([1.0, 3600.0], target.size // 2)
    rows = zip(target, measured, time, strict=True)
    return "target_uS,measured_uS,time_s\n" + "".join(f"{t:.3f},{m:.3f},{s:g}\n" for t, m, s in rows)


def broken_readings(folder: Path, rng: Random) -> Path:
    path, how = folder / "m.csv", rng.random()
    if how < 0.2:
        path.write_bytes(broken_bytes(readings().encode(), rng))
        return path
    lines = readings().splitlines()
    if how < 0.4:
        path.write_text(broken_text("\n".join(lines), rng), encoding="utf-8", errors="surrogatepass")
        return path
    if how < 0.5:
        column = rng.choice(("target", "measured", "time", "target_nS", "time_h", "measured (MS)", "", "device"))
        lines[0] = ",".join(rng.sample(["target_uS", "measured_uS", "time_s", column], 3))
    if how < 0.6:
        del lines[rng.randrange(1, len(lines)) :]
    for _ in range(rng.choice((1, 1, 2, 100))):
        row = rng.randrange(1, max(2, len(lines)))
        cells = lines[min(row, len(lines) - 1)].split(",")
        bad = ("nan", "inf", "-1", "0", "1e30", "1e-30", "", "x", "1,2", "9" * 400, "1e400", "-0.0", "1e9")
        cells[rng.randrange(len(cells))] = rng.choice(bad)
        lines[min(row, len(lines) - 1)] = ",".join(cells)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


add("measurements", broken_readings, lambda path: imc_ssm.fit_cell(path).cell, sane_cell)

__all__ = ["LOADERS"]
