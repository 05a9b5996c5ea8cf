"""What is smaller at the same accuracy, in the measures of the literature: ACE, model size, ADC complexity.

    python experiments/qs4d/complexity.py [--seeds 0,1] [--only NAME,...] [--device cuda]
    python experiments/qs4d/complexity.py --report

s4d-64h on sMNIST (models of `experiments/zhao2025`), quantized to few bits, without some of its states and
heads, and trained (QAT with learned ranges, in two rounds where something goes). Compared with the model in
full precision, 32 bits each. `imc_ssm.analysis.complexity` counts; of ADCs, conversions times 2^bits, with as
many bits as activations have, against the same chip with converters of 8 bits, as numbers in full precision
have no converter. Every result is a model file in `runs`; `--report` makes `results/complexity.nc`, the figure,
and prints the table of REPORT.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import imc_ssm
from imc_ssm.datasets import SequenceDataset
from imc_ssm.kernels.device import named_device, placed
from imc_ssm.layers import Classifier
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.pruning import Pruning, run
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.training import History, TrainConfig, accuracy, train

HERE = Path(__file__).parent
MODELS, RUNS = HERE.parent / "zhao2025" / "models", HERE / "runs"
DATASET, FIGURE = HERE / "results" / "complexity.nc", HERE / "results" / "complexity.png"
MODEL, SEEDS, DESIGN, REFERENCE_BITS = "s4d-64h", (0, 1), "pcm-256", 8
QAT = TrainConfig(epochs=1, batch=128, learning_rate=7e-3, ranges="learned")


class Reduced(NamedTuple):
    """Word lengths, and what is taken out."""

    poles: int
    state: int
    weights: int
    activations: int
    states: float = 0.0
    heads: float = 0.0

    @property
    def scheme(self) -> Scheme:
        """Weights are rounded for their outputs, poles in polar form, states dithered; free scales."""
        words = {
            "poles": self.poles,
            "state": self.state,
            "weights": self.weights,
            "activations": self.activations,
        }
        return Scheme.recommended(**words, scales="free", rate_limit=None)


WAYS = {
    "8 bits": Reduced(8, 8, 8, 8),
    "W4A6 A6 x6": Reduced(6, 6, 4, 6),
    "W4A5 A6 x6": Reduced(6, 6, 4, 5),
    "W4A5 A6 x6, half of the states": Reduced(6, 6, 4, 5, states=0.5),
    "W4A5 A5 x6, half of the states": Reduced(5, 6, 4, 5, states=0.5),
    "W3A5 A5 x6, half of the states, 20 % of the heads": Reduced(5, 6, 3, 5, states=0.5, heads=0.2),
    "W4A4 A5 x6, half of the states": Reduced(5, 6, 4, 4, states=0.5),
}
"""Name -> how."""


def file_of(seed: int, way: str) -> Path:
    """Where a model is kept."""
    words = way.replace(", ", "-").replace(" % of the ", "").replace(" of the ", "-").replace(" ", "-")
    return RUNS / f"reduced-{words}-seed{seed}.safetensors"


def compute(data: SequenceDataset, seed: int, way: str, device: str) -> None:
    """One model."""
    how, test = WAYS[way], data.split("test")
    exact = imc_ssm.load_model(MODELS / f"{MODEL}-seed{seed}.safetensors").model
    model = quantize(exact, how.scheme, *calibration_batch(data, exact.config.width, 512, seed), device=device)
    start = time.perf_counter()

    def trained(made: Classifier, number: int) -> History:
        history = train(made, data, QAT.with_(seed=seed), keep="last", device=device)
        print(seed, way, number, history.accuracy_validation, f"{time.perf_counter() - start:.0f} s", flush=True)
        return history

    if how.states or how.heads:
        plan = Pruning(states=how.states, heads=how.heads, rounds=2, seed=seed)
        model = run(model, plan, data, trained).model
    else:
        trained(model, 0)
        trained(model, 1)
    took = time.perf_counter() - start
    with placed(model, named_device(device)):
        reached = accuracy(model, test)
    about = {"task": "smnist", "training": QAT.model_dump(mode="json"), "accuracy_test": reached, "time_s": took}
    RUNS.mkdir(exist_ok=True)
    save_model(file_of(seed, way), StoredModel(model, model.scheme, about | {"device": device}))
    print(seed, way, reached, flush=True)


def main() -> None:
    """Train what is asked for, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument(
        "--only", type=int, nargs="*", default=range(len(WAYS)), help="numbers of the ways, from 0"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    data = imc_ssm.load_dataset("smnist")
    for seed in map(int, given.seeds.split(",")):
        for way in [list(WAYS)[number] for number in given.only]:
            if not given.report and not file_of(seed, way).exists():
                compute(data, seed, way, given.device)


if __name__ == "__main__":
    main()
