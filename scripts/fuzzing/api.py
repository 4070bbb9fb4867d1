"""schemathesis against the OpenAPI document that a running service serves."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.rig.service import ROOT, Service, clean_environment

CONFIG = Path(__file__).with_name("schemathesis.toml")
LEEWAY_S = 300  #: a run that takes so much longer than asked for hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRun:
    """What schemathesis did and found."""

    cases: int
    seconds: float
    findings: tuple[str, ...]  #: one line each
    output: str  #: all of it, with the request that shows each finding


def attack_api(
    service: Service,
    folder: Path,
    *,
    seed: int,
    examples: int | None = None,
    limit_s: int | None = None,
    may_be_unavailable: bool,
) -> ApiRun:
    """Send what the document allows, and what it does not, and hold the answers against it.

    Args:
        service: that runs.
        folder: for the report; must exist.
        seed: the same seed and number of examples give the same cases.
        examples: for each call and phase; or
        limit_s: go on until so many seconds are over.
        may_be_unavailable: whether a 503 is a right answer.
    """
    report = folder / "schemathesis.json"
    amount = ["--max-time", str(limit_s)] if limit_s else ["--max-examples", str(examples)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
            *("run", f"{service.url}/openapi.json", "--no-color", "--seed", str(seed)),
            *(*amount, "--report", "json", "--report-json-path", str(report)),
        ],
        cwd=folder,
        env={
            **clean_environment(),
            "PYTHONPATH": str(ROOT),
            "QBM_FUZZ_KEY": service.key,
            "QBM_FUZZ_MAY_BE_UNAVAILABLE": str(int(may_be_unavailable)),
        },
        capture_output=True,
        text=True,
        timeout=(limit_s or 0) + LEEWAY_S,
        check=False,
    )
    if not report.exists():
        raise RuntimeError(f"schemathesis did not run:\n{done.stdout}\n{done.stderr}")
    told = json.loads(report.read_text())
    findings = [
        f"{kind['title']}: {operation}"
        for kind in told["failures"]
        for operation in kind["operations"]
    ]
    findings += [f"schemathesis met an error: {error}" for error in told["errors"]]
    if done.returncode and not findings:
        findings.append(f"schemathesis ended with status {done.returncode}")
    untested = told["operations"]["total"] - told["operations"]["tested"]
    if untested or not told["complete"]:
        findings.append(f"{untested} calls were not tested, complete: {told['complete']}")
    return ApiRun(
        cases=told["test_cases"]["generated"],
        seconds=told["running_time"],
        findings=tuple(findings),
        output=done.stdout + done.stderr,
    )
