"""The command `torch2rt bench`."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from torch2rt.bench.api import GPU_PEERS, OURS, PEERS, bench
from torch2rt.bench.options import TOLERANCES
from torch2rt.errors import Torch2rtError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments to ``parser``."""
    parser.add_argument(
        "model", help="package.module:factory or file.py:factory, returning (model, inputs)"
    )
    parser.add_argument(
        "--vs", type=_names, metavar="A,B",
        help=f"default {','.join(PEERS)}; on a GPU {','.join(GPU_PEERS)}",
    )
    parser.add_argument(
        "--precision", type=_names, default=("fp32",), metavar="P,Q", help=", ".join(TOLERANCES)
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:1")
    parser.add_argument("--threads", type=int, default=2, help="of every contender")
    parser.add_argument("--rounds", type=int, default=20, help="counted rounds per precision")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument("--name", help="of the model in the rows; default the factory's")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.csv", help="default bench_<name>_<date>.csv"
    )
    parser.add_argument("--timing-cache", type=Path, help="of torch2rt; default none")
    parser.add_argument("--tune-budget", type=float, metavar="S", help="of torch2rt, seconds")
    parser.add_argument("--float64", action="store_true", help="check against the model in float64")
    parser.add_argument("--peers-only", action="store_true", help=f"measure without {OURS} itself")
    parser.add_argument(
        "--realtime", action="store_true", help="turns before all else on the machine (root only)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def main(args: argparse.Namespace) -> int:
    """Run the benchmark that ``args`` describes; the exit status: 2 for a user's mistake."""
    name = args.name or args.model.rpartition(":")[2]
    output = args.output or Path(f"bench_{name}_{date.today().isoformat()}.csv")
    try:
        result = bench(
            args.model,
            vs=args.vs,
            precision=args.precision,
            device=args.device,
            threads=args.threads,
            rounds=args.rounds,
            warmup=args.warmup,
            ours=not args.peers_only,
            output_csv=output,
            name=name,
            progress=not args.quiet,
            float64_reference=args.float64,
            realtime=args.realtime,
            seed=args.seed,
            timing_cache=args.timing_cache,
            tune_budget_s=args.tune_budget,
        )
    except (Torch2rtError, OSError) as error:
        print(f"torch2rt bench: {error}", file=sys.stderr)
        return 2
    print(result.table())
    print(f"written to {output}")
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
