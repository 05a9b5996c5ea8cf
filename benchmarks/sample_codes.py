"""A sample of a trained model's codes for the tests: formats, coefficients, inputs, and the oracle's results.

    python benchmarks/sample_codes.py MODEL [--images 32] [--data-dir DIR] [--out FILE.npz]

MODEL is what `imc-ssm quantize` writes for smnist; the sample is its first recurrence on the first test images.
The file is an .npz without pickled objects: `order` and `rounding`; for each part p of a, b, c, u, x, y `p.bits`,
`p.scale`, `p.zero_point`, `p.symmetric` and `p.clip` (NaN: none); the codes `a`, `b`, `c` (head, state, 2), `u`
and `y` (image, head, time) and `last` (image, head, state, 2).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trained import inputs_of, layers_of, load_quantized

from imc_ssm import datasets
from imc_ssm.errors import ImcSsmError
from imc_ssm.files import atomic_path
from imc_ssm.fixedpoint import scan_codes
from imc_ssm.kernels.codes import input_codes

DEFAULT = Path(__file__).parents[1] / "tests" / "data" / "codes_s4d16h_8bit.npz"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a quantized model of smnist")
    parser.add_argument("--images", type=int, default=32, help="test images (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="where MNIST is")
    parser.add_argument("--out", type=Path, default=DEFAULT, help="default: that of the tests")
    options = parser.parse_args()
    try:
        model = load_quantized(options.model)
        images = datasets.load("smnist", options.data_dir).split("test").take(options.images)
        layer = layers_of(model)[0]
        (values,), _ = inputs_of(model, [layer], torch.from_numpy(images.values))
        u = input_codes(values.numpy(), layer.plan)
        y, last, _ = scan_codes(layer.plan, u, *layer.codes)
        stored: dict[str, Any] = dict(zip("abc", layer.codes, strict=True)) | {"u": u, "y": y, "last": last}
        word = np.int8 if max(getattr(layer.formats, part).bits for part in "abcuxy") <= 8 else np.int16
        stored = {name: codes.astype(word) for name, codes in stored.items()}
        stored |= {"order": layer.formats.rounding_placement, "rounding": layer.formats.rounding}
        for part in "abcuxy":
            f = getattr(layer.formats, part)
            fields = {"bits": f.bits, "scale": f.scale, "zero_point": f.zero_point, "symmetric": f.symmetric}
            stored |= {f"{part}.{name}": value for name, value in fields.items()}
            stored[f"{part}.clip"] = np.nan if f.clip is None else f.clip
        with atomic_path(options.out) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **stored)
    except ImcSsmError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{options.out.name}: {len(u)} images, {options.out.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
