"""Chips for tests: a shipped design with some fields changed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from imc_ssm.devices import Chip, load_design, resolve


def ideal(bits: int) -> dict[str, Any]:
    """A converter of any resolution."""
    return {"type": "ideal", "bits": bits}


def chip_of(shipped: str = "pcm-256", /, *, cell: dict[str, Any] | None = None, **design: Any) -> Chip:
    """The chip of a shipped design with fields of its design and of its cell changed."""
    given = load_design(shipped)
    noise = design.pop("noise", None)
    if noise is not None:
        design["read_noise"] = given.read_noise.with_(value=noise)
    chip = resolve(given.with_(**design))
    return chip if cell is None else chip.with_(cell=chip.cell.with_(**cell))


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Where outputs differ by more than the last bits, in which processors do not agree: by a code."""
    return (a - b).abs() > 2e-6 * a.abs().max()
