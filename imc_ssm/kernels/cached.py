"""Whether the compiled passes are there already, so that a wait can be announced."""

from __future__ import annotations

__all__ = ["compiled"]


def compiled() -> bool:
    """Whether a QAT step was compiled on this machine before: in this process, or into Numba's cache."""
    from imc_ssm.kernels.reverse import backward_codes

    return backward_codes.ready
