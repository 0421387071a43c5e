"""The command line: `python -m bench quick | full | run EXPERIMENT | check | report | simulate`."""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.experiments import FULL, QUICK, Scale
from bench.experiments.attention import engine
from bench.experiments.chats import chats
from bench.experiments.claims import claims
from bench.experiments.costs import costs
from bench.experiments.delivery import delivery
from bench.experiments.demo import demo
from bench.experiments.doors import doors
from bench.experiments.engines import engines
from bench.experiments.fairness import fairness
from bench.experiments.first_token import first_token
from bench.experiments.growth import growth
from bench.experiments.placement import placement
from bench.experiments.prefix import prefix
from bench.experiments.scoring import scoring
from bench.experiments.serving import serving
from bench.experiments.telemetry import telemetry
from bench.experiments.unrelated import unrelated
from bench.experiments.vllm import vllm
from bench.experiments.warmth import warmth
from bench.experiments.whole_path import replaced, whole_path
from bench.regression import compare
from bench.results_file import RESULTS, Result

EXPERIMENTS = {
    each.__name__: each
    for each in (
        whole_path,
        replaced,
        engine,
        first_token,
        doors,
        delivery,
        serving,
        prefix,
        warmth,
        placement,
        fairness,
        unrelated,
        claims,
        scoring,
        chats,
        growth,
        costs,
        telemetry,
        engines,
        vllm,
        demo,
    )
}
QUICK_ONES = ("whole_path", "first_token", "delivery", "prefix")


def main() -> None:
    """Exit code 1: a ratio is worse than the committed one."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    quick = commands.add_parser("quick", help="five minutes: the path, the first token, delivery, the prefix cache")
    quick.add_argument("--accept", action="store_true", help="later runs are checked against this one")
    commands.add_parser("full", help="an hour: everything; rewrites bench/results and the document")
    run = commands.add_parser("run", help="one experiment at full size")
    run.add_argument("experiment", choices=EXPERIMENTS, nargs="+")
    run.add_argument("--quick", action="store_true", help="at the size that `quick` has")
    run.add_argument("--folder", type=Path, default=RESULTS, help="where the results go (default: %(default)s)")
    check = commands.add_parser("check", help="compare the results in a folder with the committed ones")
    check.add_argument("folder", type=Path)
    commands.add_parser("report", help="write tables and plots of bench/results into docs/performance.md")
    commands.add_parser("simulate", help="carry the measured costs to a cluster")
    options = parser.parse_args()
    # Also when it is told to end, it stops what it started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    match options.command:
        case "quick":
            folder = RESULTS / "quick" if options.accept else Path(tempfile.mkdtemp(prefix="headrace-bench-"))
            _run(QUICK_ONES, QUICK, folder)
            _check(folder, RESULTS / "quick")
        case "full":
            _run(tuple(EXPERIMENTS), FULL, RESULTS)
            _report()
        case "run":
            _run(options.experiment, QUICK if options.quick else FULL, options.folder)
        case "check":
            _check(options.folder, RESULTS)
        case "report":
            _report()
        case "simulate":
            from bench.simulate import simulate

            simulate().save()


def _run(names: tuple[str, ...], scale: Scale, folder: Path) -> None:
    for name in names:
        print(f"{name}: {(EXPERIMENTS[name].__doc__ or '').strip()}", flush=True)
        begin = time.perf_counter()
        result = asyncio.run(EXPERIMENTS[name](scale))
        if scale is QUICK:
            result.command += " --quick"
        print(_table(result) + f"\n  {time.perf_counter() - begin:.0f} s, {result.save(folder)}\n", flush=True)


def _table(result: Result) -> str:
    verdict = {True: "met", False: "MISSED", None: ""}
    return "\n".join(
        f"  {ratio.name:70} {ratio.value:10.3f} {ratio.unit:3} "
        + ("" if ratio.target is None else f"{'>=' if ratio.at_least else '<='} {ratio.target:g} {verdict[ratio.met]}")
        for ratio in result.ratios
    )


def _check(new: Path, old: Path) -> None:
    if new == old:
        return
    worse = compare(new, old)
    for regression in worse:
        print(f"bench: worse than the committed result: {regression}", file=sys.stderr)
    if worse:
        sys.exit(1)
    print("bench: no ratio is worse than the committed one.")


def _report() -> None:
    from bench.report import write

    write()


if __name__ == "__main__":
    main()
