"""The models of the design space: shapes and word lengths, trained with noise on the matrices.

    python experiments/design_space/train.py [NAME ...] [--device cuda]

A model `8h-16n-w8` has 8 heads of 16 real states and words of 8 bits; `w4` is 4 bits for matrices, B, C and D
and 6 for everything else. Each starts from the model in full precision of its shape (`experiments/qs4d-smnist`,
trained by `imc-ssm experiment run qs4d-smnist/sizes --only bits=32`), is quantized with the recommended scheme,
and trained with Gaussian noise of 6 % of a column's largest weight, which is of no technology in particular.
One file each, in `models`; those that are there are left alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import imc_ssm
from imc_ssm.kernels.device import named_device, placed
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.training import TrainConfig, accuracy, train

HERE = Path(__file__).parent
MODELS, FULL = HERE / "models", HERE.parent / "qs4d-smnist" / "models"
HEADS, STATES = (8, 16, 32, 64), (16, 64)
SCHEMES = {
    "w8": Scheme.recommended(),
    "w4": Scheme.recommended(poles=6, state=6, weights=4, activations=6),
}
TRAINING = TrainConfig(epochs=4, batch=128, learning_rate=7e-3, noise=0.06, noise_ramp=1.0)
NAMES = tuple(f"{heads}h-{states}n-{scheme}" for heads in HEADS for states in STATES for scheme in SCHEMES)


def trained(name: str, device: str) -> StoredModel:
    """One model, trained unless it is there."""
    path = MODELS / f"{name}.safetensors"
    if path.exists():
        return imc_ssm.load_model(path)
    shape, _, scheme = name.rpartition("-")
    exact = imc_ssm.load_model(FULL / f"s4d-{shape}-seed0.safetensors")
    data = imc_ssm.load_dataset("smnist")
    model = quantize(
        exact.model, SCHEMES[scheme], *calibration_batch(data, exact.model.config.width, 512, 0), device=device
    )
    with placed(model, named_device(device)):
        before = accuracy(model, data.split("validation"))
    start, checkpoint = time.perf_counter(), path.with_suffix(".checkpoint")
    MODELS.mkdir(exist_ok=True)
    history = train(model, data, TRAINING, checkpoint=checkpoint, device=device)
    took = time.perf_counter() - start
    with placed(model, named_device(device)):
        reached = accuracy(model, data.split("test"))
    about = {
        "task": "smnist",
        "training": TRAINING.model_dump(mode="json"),
        "accuracy_full_precision": exact.info["accuracy_test"],
        "accuracy_validation_before": before,
        "accuracy_validation": history.accuracy_validation[-1],
        "accuracy_test": reached,
        "time_s": took,
        "device": device,
    }
    stored = StoredModel(model, model.scheme, about)
    save_model(path, stored)
    checkpoint.unlink(missing_ok=True)
    return stored


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help="default: all")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    for name in given.names:
        if name not in NAMES:
            parser.error(f"no model {name!r}; there are {', '.join(NAMES)}")
        info = trained(name, given.device).info
        print(
            f"{name}: full precision {info['accuracy_full_precision']:.2f} %, test {info['accuracy_test']:.2f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
