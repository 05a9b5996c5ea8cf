"""Whether the compiled passes are there already, so that a wait can be announced."""

from __future__ import annotations

from pathlib import Path

__all__ = ["compiled"]


def compiled() -> bool:
    """Whether a QAT step was compiled on this machine before: in this process, or into Numba's cache."""
    from imc_ssm.kernels.reverse import backward_codes

    place = backward_codes.stats.cache_path
    return bool(backward_codes.signatures) or (place is not None and any(Path(place).glob("*backward_codes*.nbi")))
