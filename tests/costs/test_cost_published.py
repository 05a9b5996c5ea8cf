"""Products on shipped designs against published macros.

`experiments/cost_validation` predicts the macros themselves, from their own rows, nodes and pulses. Here the
designs that are named after them are priced as deployments are, through mapping and counts: the same laws, but
cells, node and sharing are the design's. Numbers are measured or published energies of one matrix-vector product.
"""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from imc_ssm.chip import Deployment, map_matrix
from imc_ssm.costs import cost
from imc_ssm.devices import Design, load_design, resolve
from imc_ssm.fixedpoint import Format
from imc_ssm.graph import Formats, Graph, Matrix, Signal, Source
from imc_ssm.quantization import Scheme

ANALOG = ["cells", "lines", "dac", "adc", "control"]


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


def ratio(design: Design, published: float, activity: float) -> float:
    """Predicted over published energy of the analog product."""
    ds = product(design, activity)
    return float(ds["energy"].sel(component=ANALOG).sum()) / published


def test_hermes() -> None:
    """HERMES core (Khaddam-Aljameh et al. 2022, doi:10.1109/JSSC.2022.3140414): 256 x 256, 8 bits, 12.5 nJ.

    It takes 130 ns. Pulse widths of Gaussian inputs: mean 0.27.
    """
    design = load_design("hermes-256")
    assert 0.8 < ratio(design, 12.5e-9, 0.27) < 1.6
    latency = product(design, 0.27)["latency"].sel(component=["cells", "adc"])
    assert float(latency.sum()) == pytest.approx(130e-9, rel=0.05)
    slow = design.with_(adc={"type": "sar", "bits": 8})
    assert ratio(slow, 12.5e-9, 0.27) < 0.2  # what a SAR would save


def test_yao() -> None:
    """Yao et al. 2020 (doi:10.1038/s41586-020-1942-4), projected: 0.372 nJ for each bit of the inputs."""
    design = load_design("taox-yao-128")
    serial = {"type": "bipolar", "bits": 8, "encoding": "bit-serial"}
    assert 0.4 < ratio(design.with_(dac=serial), 7 * 0.372e-9, 1.0) < 2  # activity: bits of a code that are set


def test_isaac() -> None:
    """ISAAC (Shafiee et al. 2016, doi:10.1109/ISCA.2016.12, Table I), 100 ns of one crossbar.

    (16 ADC + 4 DAC + 0.01 hold + 2.4 crossbar) mW / 8 crossbars x 100 ns = 280 pJ, of which the ADC 71 %. Of the
    converters: 128 conversions of 1.667 pJ.
    """
    design = load_design("reram-128").with_(dac={"type": "driver", "bits": 1}, columns_per_adc=128)
    ds = product(design, activity=0.5)
    assert float(ds["energy"].sel(component="adc")) == pytest.approx(128 * 1.667e-12, rel=0.25)
    assert float(ds["latency"].sel(component="adc")) == pytest.approx(107e-9, rel=0.02)  # 128 at 1.2 GS/s
