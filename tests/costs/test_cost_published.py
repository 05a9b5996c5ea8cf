"""Orders of magnitude against published macros, with the shipped designs.

Measured or published energy of one matrix-vector product, and what the model says (run with `-s` to see the
ratios). The model leaves out drivers, references, control and leakage, and takes its own devices and converters:
it is off by the factors below. They are what it says today, exactly: a change of the model or of a shipped number
has to be seen here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from imc_ssm.chip import Deployment, map_matrix
from imc_ssm.costs import cost
from imc_ssm.devices import Design, load_design, resolve
from imc_ssm.fixedpoint import Format
from imc_ssm.graph import Formats, Graph, Matrix, Signal, Source
from imc_ssm.quantization import Scheme

ANALOG = ["cells", "dac", "adc"]


def product(design: Design, activity: float = 1 / 9) -> xr.Dataset:
    """One product that fills one tile with Gaussian weights, largest weight of a column at full scale."""
    weight = np.random.default_rng(0).normal(size=(design.columns, design.rows))
    chip = resolve(design)
    matrix = map_matrix("matrix", "matrix", weight, None, chip, input_range=1.0)
    entering, leaving = Signal("input", design.rows), Signal("matrix", design.columns)
    graph = Graph(
        (Source("input", "input", (), entering), Matrix("m", "matrix", (entering,), leaving, biased=False))
    )
    formats = Formats({"input": Format.from_range(-1, 1, 8)})
    deployment = Deployment(chip, (matrix,), graph, formats, Scheme(), 1, {}, {})
    return cost(deployment, activity=activity)


def compare(name: str, ds: xr.Dataset, published: float) -> float:
    """Predicted over published energy of the analog product."""
    predicted = float(ds["energy"].sel(component=ANALOG).sum())
    ratio = predicted / published
    print(f"\n{name}: predicted {predicted * 1e9:.3f} nJ, published {published * 1e9:.3f} nJ, ratio {ratio:.3f}")
    return ratio


def today(factor: float) -> Any:
    """Within the digits that are written: counts times constants, and one draw of weights."""
    return pytest.approx(factor, rel=2e-3)


def test_hermes() -> None:
    """HERMES core (Khaddam-Aljameh et al. 2022, doi:10.1109/JSSC.2022.3140414): 256 x 256, 8 bits, 12.5 nJ.

    The SAR of `pcm-256` is a model paper's (1.7 pJ), the measured core spends at most 48.8 pJ a column on
    everything. So the shipped preset is more than ten times below silicon. With the core's own figure as its
    converter (an upper bound, so this part is circular) cells and inputs must add little to it.
    """
    shipped = load_design("pcm-256")
    assert compare("HERMES, SAR", product(shipped), 12.5e-9) == today(0.0598)
    own = shipped.with_(adc={"type": "cco", "bits": 8}, columns_per_adc=1)
    assert compare("HERMES, own converter", product(own), 12.5e-9) == today(1.0251)
    # 128 ns of pulse, 130 ns in all: measured.
    latency = float(product(own)["latency"].sel(component=ANALOG).sum())
    assert latency == pytest.approx(130e-9, rel=0.05)


def one_bit(design: Any) -> Any:
    """With 1-bit inputs, which a design cannot have (no code but zero): it is priced here, not programmed."""
    return type(design).model_construct(**dict(design) | {"dac": "driver-1b", "dac_bits": 1})


def test_yao() -> None:
    """Yao et al. 2020 (doi:10.1038/s41586-020-1942-4): 128 x 128, 1-bit input, 8-bit output, 0.372 nJ.

    Our devices conduct 9 to 88 uS for 100 ns, theirs 2 to 20 uS for 50 ns: the cells make the difference.
    """
    design = load_design("reram-128").with_(dac={"type": "driver", "bits": 1})
    assert compare("Yao", product(design, activity=0.5), 0.372e-9) == today(4.320)


def test_neurram() -> None:
    """NeuRRAM (Wan et al. 2022, doi:10.1038/s41586-022-04992-8): 128 pairs x 256, 4/6 bits, 4.108 nJ."""
    design = load_design("reram-wan-64").with_(
        rows=128, columns=256, adc={"type": "sar", "bits": 6}, dac={"type": "capacitive", "bits": 4}
    )
    assert compare("NeuRRAM", product(design), 4.108e-9) == today(0.1085)


def test_isaac_converters_dominate() -> None:
    """ISAAC (Shafiee et al. 2016, doi:10.1109/ISCA.2016.12, Table I), one 100 ns cycle of one crossbar.

    (16 ADC + 4 DAC + 0.01 hold + 2.4 crossbar) mW / 8 crossbars x 100 ns = 280 pJ, of which the ADC 71 %.
    """
    design = load_design("reram-128").with_(dac={"type": "driver", "bits": 1}, columns_per_adc=128)
    ds = product(design, activity=0.5)
    assert compare("ISAAC", ds, 280e-12) == today(5.739)
    energy = ds["energy"].sel(component=ANALOG)
    eight = product(load_design("reram-128"))["energy"].sel(component=ANALOG)
    for part, share in ((energy, 0.133), (eight, 0.389)):  # 1-bit and 8-bit inputs
        assert float(part.sel(component="adc") / part.sum()) == today(share)
    # ISAAC's own devices: 30 pJ a cycle (2.4 mW / 8 x 100 ns) in place of ours.
    converters = float(energy.sel(component=["adc", "dac"]).sum())
    share = float(energy.sel(component="adc")) / (converters + 30e-12)
    assert share == today(0.718)  # published: 0.71
    # One converter for 128 columns at 1.2 GS/s: 100 ns and a little.
    assert float(ds["latency"].sel(component="adc")) == pytest.approx(107e-9, rel=0.02)
