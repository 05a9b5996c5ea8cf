"""The SSM whose discrete matrices are the parameters: what QAT trains in two of the parameterisations."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from imc_ssm.layers import S4D

__all__ = ["DiscreteS4D"]


class DiscreteS4D(S4D):
    """x[t] = A x[t-1] + B u[t], y[t] = 2 Re(sum_n C x[t]) + D u[t] with A, B, C, D as parameters.

    A, B and C as real pairs (H, n, 2), packed where heads have different numbers of states, D (H,), from the
    discretised values of `source`, which is left as it is.
    With `frozen`, A stays: it takes no gradient. There is no step dt any more, and nothing keeps |A| below 1.
    Source: Zhao et al. 2025 (arXiv:2506.12480), parameterisations "discrete" and "frozen A".
    """

    groups: ClassVar[dict[str, str]] = dict.fromkeys("AB", "dynamics")
    packed_names: ClassVar[tuple[str, ...]] = ("A", "B", "C")

    def __init__(self, source: S4D, *, frozen: bool = False) -> None:
        nn.Module.__init__(self)  # none of the parameters of the continuous system
        self.discretisation, self.mode = source.discretisation, source.mode
        with torch.no_grad():
            pairs = (torch.view_as_real(z.resolve_conj()).clone() for z in source.discrete())
            a, b, c = (source.packed(part) for part in pairs)
        self.A = nn.Parameter(a, requires_grad=not frozen)
        self.B, self.C = nn.Parameter(b), nn.Parameter(c)
        self.D = nn.Parameter(source.D.detach().clone())
        self._count(source.counts)

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """(a, b, c), each (H, n) complex: the parameters themselves."""
        a, b, c = (self.spread(z, zero=part > 0) for part, z in enumerate((self.A, self.B, self.C)))
        return torch.view_as_complex(a), torch.view_as_complex(b), torch.view_as_complex(c)
