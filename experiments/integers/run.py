"""A whole model in integers: the oracle against the fast path, codes of every signal, over the sMNIST test images.

    python experiments/integers/run.py [--images 10000] [--scheme NAME] [--again]

writes `integers.nc` after every piece and goes on where it stopped; a scheme takes about five minutes on one core.
Also compared: the logits of a stream, one step after the other, with those of the batch, on the first piece.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import imc_ssm
from imc_ssm import fixedpoint, results
from imc_ssm.pretrained import pretrained_path
from imc_ssm.quantization import formats_of, signal_codes, words_of

HERE = Path(__file__).parent
PIECE = 500
"""Images at a time."""
MODEL = "s4d-16h"
SCHEMES = {
    "8 bits": imc_ssm.Scheme.uniform(),
    "W4A6": imc_ssm.Scheme.w4a6(6, 6),
    "16 bits": imc_ssm.Scheme.uniform(poles=16, state=16, weights=16, activations=16),
    "dithered, slow heads, powers of two": imc_ssm.Scheme.uniform(
        rounding="dithered", rate_limit=1.0, scales="power_of_two"
    ),
}
LONG = {
    "codes": "Codes compared",
    "differing": "Codes of the fast path that are not the oracle's",
    "saturated": "State words that saturated",
}


def streamed(model: imc_ssm.Classifier, values: torch.Tensor) -> np.ndarray:
    """Logits (batch, class) behind the last step of a stream."""
    state = model.init_state(len(values))
    with torch.no_grad():
        for t in range(values.shape[1]):
            logits, state = model.step(values[:, t], state)
    return logits.numpy()


def compared(model: imc_ssm.Classifier, values: torch.Tensor, stream: bool) -> dict[str, tuple[int, int]]:
    """Signal -> (codes compared, of them other ones); "logits", "stream": their values in single precision."""
    formats, graph = formats_of(model), model.graph()
    fast, logits = signal_codes(model, values)
    given = fixedpoint.input_codes(formats["input"], values.numpy())
    oracle = fixedpoint.run(graph, formats, words_of(model), given)
    found = {name: (codes.size, int(np.sum(codes != oracle.codes[name]))) for name, codes in fast.items()}
    found["logits"] = (logits.size, int(np.sum(logits != oracle.values)))
    if stream:
        found["stream"] = (logits.size, int(np.sum(logits != streamed(model, values))))
    lost = sum(int(counts.state.sum()) for counts in oracle.overflows.values())
    return found | {"saturated": (0, lost)}


def gathered(known: dict[str, dict[str, np.ndarray]], images: dict[str, int], seconds: float) -> xr.Dataset:
    """The counts so far, over scheme and signal; NaN where nothing was compared."""
    signals = list(dict.fromkeys(name for found in known.values() for name in found if name != "saturated"))
    shape = (len(known), len(signals))
    codes, differing = np.full(shape, np.nan), np.full(shape, np.nan)
    for i, found in enumerate(known.values()):
        for j, name in enumerate(signals):
            if name in found:
                codes[i, j], differing[i, j] = found[name]
    ds = xr.Dataset(
        coords={
            "scheme": ("scheme", list(known), {"units": "1", "long_name": "Scheme"}),
            "signal": ("signal", signals, {"units": "1", "long_name": "Signal"}),
        }
    )
    for name, values in (("codes", codes), ("differing", differing)):
        ds[name] = (("scheme", "signal"), values, {"units": "1", "long_name": LONG[name]})
    saturated = [float(found["saturated"][1]) for found in known.values()]
    ds["saturated"] = ("scheme", saturated, {"units": "1", "long_name": LONG["saturated"]})
    ds["images"] = ("scheme", [images[name] for name in known], {"units": "1", "long_name": "Test images"})
    ds.attrs |= results.provenance({"model": MODEL, "piece": PIECE}, 0, seconds)
    return ds


def before(path: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, int], float]:
    """What an earlier run found."""
    if not path.exists():
        return {}, {}, 0.0
    ds = results.load(path)
    known = {}
    for name in ds.scheme.values:
        row = ds.sel(scheme=name)
        pairs = np.stack([row.codes.values, row.differing.values], 1)
        known[str(name)] = {str(s): p for s, p in zip(ds.signal.values, pairs, strict=True) if np.isfinite(p[0])}
        known[str(name)]["saturated"] = np.array([0.0, float(row.saturated)])
    return (
        known,
        {str(n): int(v) for n, v in zip(ds.scheme.values, ds.images.values, strict=True)},
        float(ds.attrs["seconds"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--scheme", choices=list(SCHEMES), action="append")
    parser.add_argument("--out", type=Path, default=HERE / "integers.nc")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    known, images, spent = ({}, {}, 0.0) if options.again else before(options.out)
    data, model = imc_ssm.load_dataset("smnist"), imc_ssm.load_model(pretrained_path(MODEL)).model
    test = data.split("test").values
    start = time.perf_counter()
    for name in options.scheme or SCHEMES:
        made = imc_ssm.quantize(model, SCHEMES[name], data).eval()
        for first in range(images.get(name, 0), min(options.images, len(test)), PIECE):
            values = torch.from_numpy(np.ascontiguousarray(test[first : first + PIECE]))
            found = compared(made, values, stream=first == 0)
            rows = known.setdefault(name, {})
            for signal, pair in found.items():
                rows[signal] = rows.get(signal, np.zeros(2)) + np.array(pair, np.float64)
            images[name] = first + len(values)
            results.save(gathered(known, images, spent + time.perf_counter() - start), options.out)
            other = int(sum(pair[1] for signal, pair in rows.items() if signal != "saturated"))
            print(f"{name}: {images[name]} images, {other} codes differ", flush=True)


if __name__ == "__main__":
    main()
