"""`python -m experiments.bench`: how fast this is, beside a plain baseline measured in the same run.

Ratios are to be quoted, not seconds: both are measured in turn, so that a busy machine slows both.
"""

import argparse
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconvnet.support.atomic import write_json
from deconvnet.support.errors import UsageError, UserError
from experiments.benchmarks import BENCHMARKS, load
from experiments.benchmarks.base import Benchmark, Settings
from stages.cli import make_parser, run_command

if TYPE_CHECKING:
    from experiments.benchmarks.measuring import Measured

log = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> None:
    """Measures, prints, records. Raises UserError where --guard finds a ratio that fell."""
    if options.guard and not options.quick:
        raise UsageError("--guard: its least ratios are those of small sizes: give --quick too")
    if options.repeats < 1:
        raise UsageError(f"--repeats {options.repeats}: expected 1 or more")
    if options.list:
        for name, entry in BENCHMARKS.items():
            print(f"{name:12} {entry.what}")
        return
    from deconvnet.run_folder import provenance
    from experiments.benchmarks.guard import fallen, least_ratios
    from experiments.benchmarks.measuring import measure

    settings = Settings(options.quick, options.device, options.voc_root)
    found, slow = {}, []
    for name in chosen(options.only):
        log.info("%s: %d repeats", name, options.repeats)
        measured = measure(partial(load, name, settings), options.repeats)
        found[name] = record(load(name, settings), measured, settings)
        print(table(name, found[name]), flush=True)
        if options.guard:
            slow += fallen(name, measured, least_ratios())
    if options.json:
        write_json(options.json, {"command": command(options), **provenance(), **machine(), "benchmarks": found})
    if slow:
        raise UserError("; ".join(slow))


def command(options: argparse.Namespace) -> str:
    """What measures the same, wherever its record goes."""
    words = {"--only": options.only, "--repeats": options.repeats, "--voc-root": options.voc_root}
    words |= {"--device": options.device if options.device != "cpu" else None}
    given = [f"{name} {value}" for name, value in words.items() if value is not None]
    return " ".join(["python -m experiments.bench", *given, *(["--quick"] if options.quick else [])])


def record(benchmark: Benchmark, measured: "list[Measured]", settings: Settings) -> dict[str, Any]:
    """What was measured, for the table and the JSON file."""
    from experiments.benchmarks.measuring import spread

    ways = [{"name": one.name, "seconds": one.seconds, "rate": one.rate, "rate_iqr": one.rate_spread,
             "ratio": one.ratio, "ratio_iqr": spread(one.ratios), "memory_bytes": one.memory,
             "agreement": one.agreement}
            for one in measured]
    if benchmark.work:
        from experiments.benchmarks.floor import floor

        work = benchmark.work()
        for way, one in zip(ways, measured, strict=True):
            least = floor(work, one.precision, settings.device)
            way |= {"floor_seconds": least, "above_floor": one.units / one.rate / least}
    return {"unit": benchmark.unit, "units_per_call": benchmark.units, "ways": ways}


def table(name: str, found: dict[str, Any]) -> str:
    """A benchmark's figures, a line for each way."""
    from tabulate import tabulate

    rows = []
    for way in found["ways"]:
        agreement = ", ".join(f"{key} {value:.4g}" for key, value in way["agreement"].items())
        rows.append([name, way["name"], f"{way['rate']:.4g} ± {way['rate_iqr']:.2g}",
                     f"{way['ratio']:.2f} ± {way['ratio_iqr']:.2f}",
                     f"{way['memory_bytes'] / 1e6:.0f} MB" if way["memory_bytes"] is not None else "",
                     f"{way['above_floor']:.2f} x" if "above_floor" in way else "", agreement])
    headers = ["what", "way", f"{found['unit']}/s (IQR)", "ratio (IQR)", "peak memory", "above the floor", "agreement"]
    return tabulate(rows, headers, disable_numparse=True) + "\n"


def machine() -> dict[str, object]:
    """What the figures depend on besides."""
    import torch

    return {"threads": torch.get_num_threads(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}


def chosen(only: str | None) -> list[str]:
    """The names in --only, or all. Raises UsageError for a name that is none."""
    named = only.split(",") if only else list(BENCHMARKS)
    if unknown := [name for name in named if name not in BENCHMARKS]:
        raise UsageError(f"--only {unknown[0]}: expected some of {', '.join(BENCHMARKS)}")
    return named


def parse() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser("experiments.bench", "Measures how fast this is, beside a plain baseline in the same run.",
                         "python -m experiments.bench --only scoring,training --json bench.json")
    parser.add_argument("--only", metavar="NAME,...", help="these measurements (default: all)")
    parser.add_argument("--list", action="store_true", help="say which measurements there are, and end")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="calls of each way (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small sizes, for CI: only the ratios mean something")
    parser.add_argument("--guard", action="store_true",
                        help="with --quick: exit status 1 if a ratio is below benchmarks/least_ratios.yaml")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda")
    parser.add_argument("--voc-root", type=Path, metavar="FOLDER",
                        help="measure on photographs of this VOC-layout folder's val (default: generated images)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="JSON file to write")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(parse(), main))
