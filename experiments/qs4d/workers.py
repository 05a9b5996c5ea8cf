"""Run the robustness studies in several processes: `python experiments/qs4d/workers.py --workers 16`.

Every process takes the cells that no other one is at (`imc-ssm experiment run`). Stopped, the command goes on.
sMNIST on devices comes first, as it takes longest; then its noise, the digits and, where asked, spoken digits.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SMNIST, DIGITS = ("qs4d-smnist/devices", "qs4d-smnist/noise"), ("qs4d/noise", "qs4d/devices")
FSDD = ("qs4d-fsdd/noise", "qs4d-fsdd/devices")
PROGRAM = "from imc_ssm.cli import main; main()"


def order(worker: int, workers: int, spoken: bool) -> list[str]:
    """Where a process begins: of sixteen nine with devices of sMNIST, three with its noise, four with digits."""
    part = worker / workers
    if part < 9 / 16:
        first = [*SMNIST, *DIGITS]
    elif part < 12 / 16:
        first = [*reversed(SMNIST), *DIGITS]
    else:
        first = [*DIGITS, *SMNIST]
    return first + (list(FSDD) if spoken else [])


def main() -> None:
    """Start, wait, stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--spoken", action="store_true", help="spoken digits, too")
    given = parser.parse_args()
    logs = HERE / "runs"
    logs.mkdir(exist_ok=True)
    until = time.monotonic() + 60 * given.minutes
    running = []
    for worker in range(given.workers):
        words = ["experiment", "run", "--threads", "1", *order(worker, given.workers, given.spoken)]
        out = (logs / f"worker-{worker}.log").open("w", encoding="utf-8")
        made = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], stdout=out, stderr=subprocess.STDOUT)
        running.append(made)
    while any(one.poll() is None for one in running) and time.monotonic() < until:
        time.sleep(0.5)
    for one in running:
        if one.poll() is None:
            one.send_signal(signal.SIGINT)
    end = time.monotonic() + 10
    while any(one.poll() is None for one in running) and time.monotonic() < end:
        time.sleep(0.2)
    for one in running:
        if one.poll() is None:
            one.kill()
    print("ended:", sorted(one.wait() for one in running))


if __name__ == "__main__":
    main()
