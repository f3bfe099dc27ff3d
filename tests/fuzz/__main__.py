"""Damages files of every kind and gives options wrong values, and sees that each command ends in one clear line.

A finding is anything but exit status 0, 1 or 2 with one error line that names the file: a traceback, a hang, a crash,
more than 2 GB, finished work that changed, damage under a checksum that passed for good. Nothing is random without the
seed; `--case KIND:SEED`, which each finding names, runs one case again.
"""

import argparse
import importlib
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import torch

from deconvnet.support.errors import UsageError, UserError
from stages.cli import make_parser, run_command
from tests.fuzz.base import MODULES, make_base
from tests.fuzz.cases import Workshop
from tests.fuzz.kinds import KINDS

SEED_STEP = 1_000_000  # cases a seed


Counts = dict[str, Counter[str]]  # by kind: cases that were "accepted", "refused", "failed"


def fuzz(kinds: list[str], seed: int, seconds: float, most: int) -> tuple[Counts, list[str]]:
    """Runs cases of each kind in turn until the time is over or each has had `most`; counts, and findings as text."""
    counts: Counts = {kind: Counter() for kind in kinds}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="deconvnet-fuzz-") as folder:
        shop = workshop(Path(folder))
        ends = time.monotonic() + seconds
        for number in range(most):
            for kind in kinds:
                if time.monotonic() > ends:
                    return counts, findings
                status, found = run_case(shop, f"{kind}:{seed * SEED_STEP + number}")
                findings += found
                counts[kind]["failed" if found else "refused" if status else "accepted"] += 1
    return counts, findings


def workshop(folder: Path) -> Workshop:
    """A workshop in an empty folder, with all commands imported first."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for module in MODULES:
        importlib.import_module(module)
    return Workshop(folder, make_base)


def run_case(shop: Workshop, case: str) -> tuple[int | None, list[str]]:
    """KIND:SEED; its exit status and findings, which are printed as they come."""
    kind, _, seed = case.partition(":")
    how, status, wrong = shop.case(kind, int(seed))
    lines = [f"--case {case} ({' '.join(how.split())}): {' | '.join(text.split(chr(10)))}" for text in wrong]
    for line in lines:
        print(line, flush=True)
    return status, lines


def main(options: argparse.Namespace) -> None:
    """Runs one case, or cases of all kinds for some minutes."""
    kinds = options.kinds.split(",") if options.kinds else list(KINDS)
    asked = [options.case.partition(":")[0]] if options.case else kinds
    unknown = [kind for kind in asked if kind not in KINDS]
    if unknown:
        raise UsageError(f"{unknown[0]!r}: expected some of {', '.join(KINDS)}")
    if options.case:
        with tempfile.TemporaryDirectory(prefix="deconvnet-fuzz-") as folder:
            shop = workshop(Path(folder))
            _, findings = run_case(shop, options.case)
            print(shop.said.read_text(errors="replace"))
    else:
        counts, findings = fuzz(kinds, options.seed, 60 * options.minutes, options.most)
        for kind, found in counts.items():
            print(f"{kind:22} {found['accepted']:5} accepted {found['refused']:5} refused {found['failed']:5} failed")
        print(f"{sum(sum(found.values()) for found in counts.values())} cases of {len(counts)} kinds, seed "
              f"{options.seed}: {len(findings)} findings")
    if findings:
        raise UserError(f"{len(findings)} findings: see above")


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("tests.fuzz", __doc__.strip(), "python -m tests.fuzz --seed 0 --minutes 5")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--minutes", type=float, default=5, help="how long (default: 5)")
    parser.add_argument("--most", type=int, default=SEED_STEP, metavar="N", help="cases of a kind, at most")
    parser.add_argument("--kinds", metavar="KIND,KIND,...", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--case", metavar="KIND:SEED", help="run this one alone and show what the command said")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
