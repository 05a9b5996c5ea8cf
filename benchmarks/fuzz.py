"""Malformed inputs over every loader: how many end in a raw exception, hang, or are accepted though impossible.

    python benchmarks/fuzz.py --cases 10000 [--first 0] [--only npz,cell]

Seeds are `first`, `first + 1`, ...; a case is the same on every machine. Prints a table and every bad case.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "fuzz"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="in all; every loader gets its share")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--only", default="", help="loaders, separated by commas")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    from fuzz_harness import run_case
    from fuzz_loaders import fresh
    from fuzz_tasks import LOADERS

    names = given.only.split(",") if given.only else list(LOADERS)
    share = -(-given.cases // len(names))
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            count: Counter[str] = Counter()
            for seed in range(given.first, given.first + share):
                outcome = run_case(LOADERS[name], seed, fresh(Path(folder) / "case"))
                count[outcome.kind] += 1
                if outcome.bad:
                    print(f"{name}, seed {seed}: {outcome.kind}: {outcome.text.strip()[-700:]}", flush=True)
            total += count
            print(f"{name:22} {dict(sorted(count.items()))}", flush=True)
    print(f"{sum(total.values())} cases: {dict(sorted(total.items()))}")
    return 1 if total["raw"] + total["hang"] + total["nonsense"] else 0


if __name__ == "__main__":
    sys.exit(main())
