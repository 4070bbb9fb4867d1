"""Try to lose a torrent, with everything that breaks: see ``scripts/chaos``.

A real service and a real qBittorrent, on an SSD and an HDD that are small file systems in
images. In rounds of half a minute, clients notify, a user adds and removes torrents, the SSD
runs short, others send rubbish, and service, qBittorrent and HDD are killed, filled, taken away
and corrupted. At the pause after each round all is mended, and once all has settled a checker
that shares no code with the service compares every file with the SHA-256 it was made with, asks
qBittorrent what it seeds and from where, and reads the journal.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

from rich.console import Console

from scripts.mayhem.judge import Weight
from scripts.mayhem.report import Screen, figures, where_to_look
from scripts.mayhem.run import WorldRun
from scripts.mayhem.site import VERSIONS
from scripts.rig.signals import ignore_signals, leave_on_signals

ROOT = Path(__file__).resolve().parent.parent
LOOK_EVERY_S = 0.5
EPILOG = """\
Same seed, same events: which torrents there are, byte by byte, and what is done when to which of
them is drawn from the seed and qBittorrent's version before anything happens. What it meets
depends on the machine: how far a copy or a relocation is when a kill comes, which copy there is
to be spoilt, how many rounds fit into the minutes. So a seed gives the same attack again, not the
same race.

Exit status: 0 nothing lost, nothing wrong; 1 something is, or it could not go on; 2 wrong usage,
or not root; 130 or 143 when it was interrupted and nothing was wrong so far.
"""


def main(arguments: list[str]) -> int:
    """Run it; the exit status."""
    options = _options(arguments)
    if os.geteuid() != 0:
        print("chaos: needs root, for it mounts its disks: sudo scripts/chaos", file=sys.stderr)
        return 2
    console = Console()
    screen = Screen(console)
    stop = threading.Event()
    leave_on_signals()
    versions = VERSIONS if options.qbittorrent == "both" else (options.qbittorrent,)
    runs = [
        WorldRun(
            seed=options.seed,
            version=version,
            minutes=options.minutes,
            module=options.service_module,
            output=options.output / f"{version}-{options.seed}",
            stop=stop,
            tell=screen.tell,
        )
        for version in versions
    ]
    threads = [threading.Thread(target=run.run, name=run.tally.version) for run in runs]
    status = 0
    try:
        for thread in threads:
            thread.start()
        with screen.showing(runs) as shown:
            while any(thread.is_alive() for thread in threads):
                shown.renew()
                stop.wait(LOOK_EVERY_S)
            shown.renew()
    except (KeyboardInterrupt, SystemExit) as interruption:
        ignore_signals()
        code = interruption.code if isinstance(interruption, SystemExit) else 130
        status = code if isinstance(code, int) else 1
        console.print("Interrupted: ending in order. The figures so far:")
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    console.print(figures(runs))
    bad = [
        run
        for run in runs
        if run.trouble or any(f.weight is not Weight.NOTED for f in run.findings)
    ]
    for run in bad:
        if run.trouble:
            console.print(f"{run.tally.version}: could not go on: {run.trouble}", markup=False)
        console.print(where_to_look(run, options.seed), markup=False, soft_wrap=True)
    return 1 if bad else status


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description=__doc__.replace("``", ""),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes", type=float, default=2.0, help="end at the first pause after so many (2)"
    )
    parser.add_argument("--seed", type=int, default=1, help="what the events are drawn from (1)")
    parser.add_argument(
        "--qbittorrent",
        choices=(*VERSIONS, "both"),
        default="both",
        help="which; both run beside each other (both)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "build" / "chaos",
        help="folder for the logs of each version and seed (build/chaos)",
    )
    # A module of the tests that spoils the service, to see that the checker notices.
    parser.add_argument("--service-module", default="qbm_trio", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
