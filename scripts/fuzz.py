"""Attack a running service with requests and bytes at random: see ``scripts/fuzz``."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

# The checkout, not what is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.fuzzing.api import attack_api
from scripts.fuzzing.site import found_in_log, under_attack
from scripts.fuzzing.wire import attack_wire
from scripts.rig.signals import leave_on_signals

EPILOG = """\
The seed decides what is sent. How many cases fit into the minutes depends on the machine, so a
seed gives the same cases again, but not always as many. schemathesis also learns from answers.

Exit status: 0 nothing found; 1 something is, and the request that shows it is printed.
"""


def main(arguments: list[str]) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description=__doc__.partition(":")[0] + ".",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=4.0, help="in all (default 4)")
    parser.add_argument("--seed", type=int, help="default: any; it is printed")
    options = parser.parse_args(arguments)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    share_s = max(5, int(options.minutes * 60 / 4))
    leave_on_signals()
    print(f"seed {seed}", flush=True)
    found = sum(_state(there, seed=seed, share_s=share_s) for there in (False, True))
    print(f"{found} findings" if found else "nothing found")
    return 1 if found else 0


def _state(there: bool, *, seed: int, share_s: int) -> int:
    """Attack a service whose qBittorrent is there, or away; how much was found."""
    state = "qBittorrent is there" if there else "qBittorrent is away"
    with (
        tempfile.TemporaryDirectory(prefix="qbm-fuzz-") as folder,
        under_attack(Path(folder), qbittorrent=there) as service,
    ):
        api = attack_api(
            service, Path(folder), seed=seed, limit_s=share_s, may_be_unavailable=not there
        )
        print(f"{state}: schemathesis, {api.cases} cases in {api.seconds:.0f} s", flush=True)
        if api.findings:
            print(api.output)
        wire = attack_wire(service, seed=seed, limit_s=share_s)
        statuses = ", ".join(f"{status}: {n}" for status, n in sorted(wire.statuses.items()))
        print(
            f"{state}: raw bytes, {wire.cases} cases in {wire.seconds:.0f} s, the slowest "
            f"{wire.slowest_s:.2f} s; answers: {statuses}",
            flush=True,
        )
        findings = [*api.findings, *wire.findings, *found_in_log(service)]
    for finding in findings:
        print(f"FOUND {finding}")
    return len(findings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
