"""Input circuits of rows, one class each: what turns an input's code into levels, widths or amplitudes of a line.

Charging the line itself is the array's (`arrays`); a circuit's price is what it takes beside that. Adding
one is one class with `@INPUTS.add`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from imc_ssm.errors import ConfigError, unknown
from imc_ssm.pricing.intervals import Number, Values
from imc_ssm.pricing.nodes import logic_scale

if TYPE_CHECKING:
    from imc_ssm.pricing.arrays import ArraySpec

__all__ = ["BY_CODING", "INPUTS", "Driven", "InputCircuit", "input_of"]


class Driven(NamedTuple):
    """An input circuit of one row."""

    energy: Number
    """J per driven row and product, all phases."""
    area: Number
    """m2 per driven row, beside the line's driver."""


class InputCircuit(Protocol):
    """A type of input circuit."""

    def __call__(self, spec: ArraySpec, k: Values) -> Driven:
        """What one row takes."""
        ...


I = TypeVar("I", bound=InputCircuit)  # noqa: E741


class _Inputs(dict[str, InputCircuit]):
    def add(self, name: str) -> Callable[[type[I]], type[I]]:
        """Class decorator that registers an input circuit under a name."""

        def keep(made: type[I]) -> type[I]:
            self[name] = made()
            return made

        return keep


INPUTS = _Inputs()
"""Input circuits by name."""
BY_CODING = {
    "bit-serial": "driver",
    "pulse-count": "driver",
    "pulse-width": "pulse-width",
    "amplitude": "capacitive",
}
"""The circuit of a coding where none is given."""


def input_of(name: str) -> InputCircuit:
    """`ConfigError` that names the nearest one where there is none."""
    if name not in INPUTS:
        raise ConfigError(unknown("input circuit", name, INPUTS))
    return INPUTS[name]


@INPUTS.add("driver")
class _Driver:
    """Two levels, one bit at a time: a line's driver and nothing beside.

    E = 0, area = 0 beyond the line and its driver. Holds for bits in turn and for trains of pulses, any node.
    """

    def __call__(self, spec: ArraySpec, k: Values) -> Driven:
        return Driven(0.0, 0.0)


@INPUTS.add("bipolar")
class _Bipolar:
    """Three levels, +V, 0 and -V: the sign's register switches between two drivers.

    E = phases pulses latch_bit s(node), J, with s the scale of logic; area = line_area node^2, m2, of the second
    driver. Holds for signed bits in turn. The register is Aladdin's (doi:10.1109/ISCA.2014.6853196), the driver
    NeuroSim's (arXiv:2003.06471).
    """

    def __call__(self, spec: ArraySpec, k: Values) -> Driven:
        energy = spec.phases * spec.pulses * k.latch_bit * logic_scale(k, spec.node)
        return Driven(energy, k.line_area * spec.node**2)


@INPUTS.add("pulse-width")
class _PulseWidth:
    """Widths: every row compares its code of b bits with a shared counter, count by count.

    E = phases 2^b b counter_bit s(node), J; area = 2 b ff_area node^2, m2: a register and its comparison. Holds
    for 1 to 10 bits, 14 to 65 nm. Aladdin's comparison of 8 bits (doi:10.1109/ISCA.2014.6853196).
    """

    def __call__(self, spec: ArraySpec, k: Values) -> Driven:
        count = k.counter_bit * logic_scale(k, spec.node) * spec.in_bits
        return Driven(spec.phases * 2**spec.in_bits * count, 2 * spec.in_bits * k.ff_area * spec.node**2)


@INPUTS.add("capacitive")
class _Capacitive:
    """Amplitudes: two capacitive or R-2R converters of b bits, one of each sign, half of whose charge moves.

    E = phases 2 (1/2) dac_bit b V_logic^2, J; area = 2 dac_area 2^(b - 8) node / 40 nm, m2. Holds for 2 to 8 bits.
    Energy of ZigZag-IMC (arXiv:2405.14978), which has no node in it; area of an 8-bit converter at 40 nm.
    """

    def __call__(self, spec: ArraySpec, k: Values) -> Driven:
        energy = spec.phases * k.dac_bit * spec.in_bits * spec.v_logic**2
        return Driven(energy, 2 * k.dac_area * (spec.node / 40e-9) * 2.0 ** (spec.in_bits - 8))
