"""Typed converter presets: energy, time and area of one conversion follow from bits, supply, node and array.

    sar               successive approximation, E = (sar_bit n + sar_unit 2^n) V^2; one bit after the other
    sar-survey        the regression over stand-alone converters (arXiv:2404.06553) times a bias; a cross-check
    cco               an oscillator counts while the column integrates: static power times that time
    duration          integrates, then a ramp of the same length turns the charge into the next pulse
    charge-decrement  an amplifier integrates phase by phase, then takes charge off, one step a cycle
    ramp              single slope: a comparator and 2^n cycles
    flash             2^n - 1 comparators at once
    sense             a current-sense amplifier that decides bit by bit against switched references

Laws take floats or arrays of scenarios. Adding one is one class with `@PRESETS.add`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from imc_ssm.errors import ConfigError, unknown
from imc_ssm.pricing.intervals import Number, Values, least, most
from imc_ssm.pricing.nodes import gate_delay, logic_scale

if TYPE_CHECKING:
    from imc_ssm.pricing.arrays import ArraySpec

__all__ = ["PRESETS", "Conversion", "Preset", "amplifier_power", "preset_of", "survey"]


class Conversion(NamedTuple):
    """One conversion of one column."""

    energy: Number
    """J, the integration of the column included."""
    time: Number
    """s after the integration."""
    area: Number
    """m2 of one converter."""
    integration: Number
    """s for which the column is read before."""


class Preset(Protocol):
    """A type of converter."""

    serial: bool
    """Whether it converts after every input pulse; if not, once for all pulses of a product."""

    def __call__(self, spec: ArraySpec, k: Values, pulse: Number) -> Conversion:
        """What one conversion takes, with read pulses of `pulse`, s."""
        ...


P = TypeVar("P", bound=Preset)


class _Presets(dict[str, Preset]):
    def add(self, name: str) -> Callable[[type[P]], type[P]]:
        """Class decorator that registers a preset under a name."""

        def keep(made: type[P]) -> type[P]:
            self[name] = made()
            return made

        return keep


PRESETS = _Presets()
"""The presets by name."""


INTEGRATING = ("cco", "duration", "charge-decrement")
"""Converters that integrate the current of a column while it is read: their rate follows from what they count."""


def preset_of(name: str) -> Preset:
    """`ConfigError` that names the nearest one where there is none."""
    if name not in PRESETS:
        raise ConfigError(unknown("converter", name, PRESETS))
    return PRESETS[name]


def survey(bits: int, node: float, rate: Number) -> tuple[Number, Number]:
    """J and m2 of a stand-alone converter: regression over published ones (Andrulis et al., arXiv:2404.06553, with
    the coefficients of hwcomponents-adc, MIT): figure of merit by rate, capped by bits; optimistic residual."""
    nm = node * 1e9
    sndr = 6.0206 * bits + 1.76091
    merit = least(213.7807 - 2.8719 * np.log(rate), 128.3068 + 3.2205 * bits)
    picojoule = 0.5 / 10 ** ((merit - sndr) / 10)
    picojoule = picojoule * math.exp(26.04962 + 1.88004 * math.log(nm) - 2.82913 * math.log(max(bits, 4)) - 1.4702)
    micron = np.exp(1.34619 + 0.99328 * math.log(nm) + 0.180715 * np.log(rate) + 0.299124 * np.log(picojoule))
    return picojoule * 1e-12, micron * 1e-12


def amplifier_power(k: Values, volt: Number, time: Number, capacitance: Number, bits: int = 8) -> Number:
    """W of an amplifier that settles to half a step of `bits` in `time`: branches x (g_m / (g_m / I)) V, with
    g_m = (bits + 1) ln 2 C / (feedback time)."""
    conductance = (bits + 1) * math.log(2) * capacitance / (k.amp_feedback * time)
    return k.amp_branches * conductance / k.gm_id * volt


def _flip_flop(k: Values, spec: ArraySpec) -> Number:
    """m2."""
    return k.ff_area * spec.node_periphery**2


@PRESETS.add("sar")
class _Sar:
    """Successive approximation: n decisions against a capacitive divider of 2^n units.

    E = (sar_bit n + sar_unit 2^n) V^2, J, with V the analog supply and no node in it. t = 1 / rate where that is
    given, else n (sar_bit_time node / 28 nm + settle_row rows) d(V), s, with d the delay of gates at V. Area is
    sar_area_bias times the survey's, m2. Holds for 5 to 10 bits, 14 to 65 nm: within a factor 2 of eight published
    converters of macros (one of 4 bits takes 0.28 of it). Energy of 2^n units: Saberi et al., TCAS-I 58:1736
    (2011), doi:10.1109/TCSI.2011.2107214; time: ZigZag-IMC, arXiv:2405.14978.
    """

    serial = True

    def __call__(self, spec: ArraySpec, k: Values, pulse: Number) -> Conversion:
        n, volt = spec.out_bits, spec.v_analog
        time = _sar_time(spec, k)
        _, area = survey(n, spec.node_periphery, _rate(n, time))
        return Conversion((k.sar_bit * n + k.sar_unit * 2**n) * volt * volt, time, k.sar_area_bias * area, pulse)


@PRESETS.add("sar-survey")
class _SarSurvey:
    """Successive approximation by the survey of stand-alone converters; a cross-check of `sar`.

    E = survey_bias times the regression's, J; time as `sar`, s; area as `sar`, m2. Holds for 4 to 12 bits as the
    survey does; published converters of macros take 0.24 to 3.1 of it, since it grows with node^1.88 and they do
    not. Andrulis et al., arXiv:2404.06553.
    """

    serial = True

    def __call__(self, spec: ArraySpec, k: Values, pulse: Number) -> Conversion:
        time = _sar_time(spec, k)
        energy, _ = survey(spec.out_bits, spec.node_periphery, 1.0 / time)
        _, area = survey(spec.out_bits, spec.node_periphery, _rate(spec.out_bits, time))
        return Conversion(k.survey_bias * energy, time, k.sar_area_bias * area, pulse)


def _rate(bits: int, time: Number) -> Number:
    """Hz for a SAR's area: of 8 bits with its decisions, so that fewer bits in less time need no more area."""
    return bits / (8.0 * time)


def _sar_time(spec: ArraySpec, k: Values) -> Number:
    """s of as many decisions as bits, each settling with the rows of the array."""
    return _decided(spec, k, spec.out_bits, k.settle_row * spec.rows)


def _decided(spec: ArraySpec, k: Values, count: int, settling: Number = 0.0) -> Number:
    """s of so many decisions of a comparator: as the design says (`adc_rate`, else `t_cycle` each), else by law.

    What is given is taken as it is, however fast; a SAR's area grows with its rate.
    """
    if spec.adc_rate is not None:
        return 1.0 / spec.adc_rate
    if spec.t_cycle is not None:
        return count * spec.t_cycle
    decision = k.sar_bit_time * (spec.node_periphery / 28e-9) + settling
    return count * decision * gate_delay(k, spec.node_periphery, spec.v_analog)


@PRESETS.add("cco")
class _Cco:
    """An oscillator whose frequency is the column's current counts while the column is read.

    on = max(pulse, 2^n cco_lsb), E = cco_power (V / 0.8 V)^2 on, J; t = on - pulse + latch_time, s. Bits matter
    once their counts are longer than the pulse. Area is the survey's at one conversion in `on`, m2. Holds for 5 to
    9 bits, 14 to 65 nm. Khaddam-Aljameh et al., JSSC 57:1027 (2022), doi:10.1109/JSSC.2022.3140414.
    """

    serial = True

    def __call__(self, spec: ArraySpec, k: Values, pulse: Number) -> Conversion:
        on = most(pulse, 2**spec.out_bits * k.cco_lsb)
        _, area = survey(spec.out_bits, spec.node_periphery, 1.0 / on)
        energy = k.cco_power * (spec.v_analog / 0.8) ** 2 * on
        return Conversion(energy, on - pulse + k.latch_time, area, pulse)


@PRESETS.add("duration")
class _Duration:
    """Integrates the column, then a ramp turns the charge into the width of the next pulse.

    E = duration_power (V / 0.8 V)^2 (pulse + ramp), J; t = ramp, s, as long as the pulse where not given. Bits
    matter by the pulse, which their counts make as long. Area is the survey's, m2. Holds for 6 to 9 bits at 14 nm.
    Ambrogio et al., Nature 620:768 (2023), doi:10.1038/s41586-023-06337-5.
    """

    serial = True

    def __call__(self, spec: ArraySpec, k: Values, pulse: Number) -> Conversion:
        ramp = pulse if spec.t_cycle is None else spec.t_cycle
        _, area = survey(spec.out_bits, spec.node_periphery, 1.0 / pulse)
        power = k.duration_power * (spec.v_analog / 0.8) ** 2
        return Conversion(power * (pulse + ramp), ramp, area, pulse)


@PRESETS.add("charge-decrement")
class _ChargeDecrement:
    """An amplifier integrates phase by phase, then takes charge off, one step a cycle.

    integration = step sum(2^b - 1) + cycle phases for phases of b magnitude bits in turn, max(step, pulse) + cycle
    for an amplitude or a width; t = cycle sum(n - bits of earlier phases), s; E = P (integration + t), J, with P
    of an amplifier that settles to 8 bits within a cycle. Area: 12 flip-flops, two amp_cap and amp_area, m2.
    Converts once a product. Holds for 3 to 10 bits at 130 nm. Wan et al., Nature 608:504 (2022),
    doi:10.1038/s41586-022-04992-8.
    """

    serial = False

    def __call__(self, spec: ArraySpec, k: Values, pulse: Number) -> Conversion:
        phases = spec.phase_bits or (spec.magnitude,)
        cycle = k.charge_cycle if spec.t_cycle is None else spec.t_cycle
        step = k.charge_step if spec.t_step is None else spec.t_step
        decrements = sum(max(spec.out_bits - sum(phases[:i]), 0) for i in range(len(phases)))
        if spec.coding in ("bit-serial", "pulse-count"):
            counts = sum(2**bits - 1 for bits in phases)
        else:
            counts, step = len(phases), most(step, pulse)
        integration = step * counts + cycle * len(phases)
        time = cycle * decrements
        power = amplifier_power(k, spec.v_analog, cycle, k.amp_cap)
        area = 12 * _flip_flop(k, spec) + 2 * k.amp_cap / k.cap_density + k.amp_area
        return Conversion(power * (integration + time), time, area, integration)


@PRESETS.add("ramp")
class _Ramp:
    """Single slope: a comparator a column, a shared ramp and counter of 2^n cycles, a latch of n bits.

    t = 2^n cycle, s, or 1 / rate where that is given; E = P t + n latch_bit s(node), J, with P of a comparator
    that settles by one time constant in a cycle. Area: 2 n flip-flops, m2. Holds for 4 to 10 bits; no published
    macro has checked it.
    """

    serial = True

    def __call__(self, spec: ArraySpec, k: Values, pulse: Number) -> Conversion:
        n = spec.out_bits
        cycle = k.ramp_cycle if spec.t_cycle is None else spec.t_cycle
        if spec.adc_rate is not None:
            cycle = 1.0 / (spec.adc_rate * 2**n)
        time = 2**n * cycle
        energy = amplifier_power(k, spec.v_analog, cycle, k.comparator_cap, bits=0) * time
        energy = energy + n * k.latch_bit * logic_scale(k, spec.node_periphery)
        return Conversion(energy, time, 2 * n * _flip_flop(k, spec), pulse)


@PRESETS.add("flash")
class _Flash:
    """2^n - 1 comparators at once.

    E = (2^n - 1) flash_cmp V^2, J; t = one decision of a SAR without settling, s; area: two flip-flops a
    comparator, m2. Holds for 1 to 5 bits. Checked by Sinangil et al., JSSC 56:188 (2021),
    doi:10.1109/JSSC.2020.3031290, alone.
    """

    serial = True

    def __call__(self, spec: ArraySpec, k: Values, pulse: Number) -> Conversion:
        count = 2**spec.out_bits - 1
        time = _decided(spec, k, 1)
        return Conversion(count * k.flash_cmp * spec.v_analog**2, time, count * 2 * _flip_flop(k, spec), pulse)


@PRESETS.add("sense")
class _Sense:
    """A current-sense amplifier that decides bit by bit against switched references.

    E = n flash_cmp V^2, J; t = n decisions without settling, s; area: 2 n flip-flops, m2. Holds for 1 to 6 bits.
    Of unseen macros alone (Shanbhag and Roy, CICC 2022, doi:10.1109/CICC53496.2022.9772817).
    """

    serial = True

    def __call__(self, spec: ArraySpec, k: Values, pulse: Number) -> Conversion:
        n = spec.out_bits
        return Conversion(
            n * k.flash_cmp * spec.v_analog**2, _decided(spec, k, n), n * 2 * _flip_flop(k, spec), pulse
        )
