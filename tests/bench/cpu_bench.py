"""The CPU table of the README: our engine against the peers on four models, fp32 and bf16.

    python tests/bench/cpu_bench.py [--models resnet50,bert_base] [--precision fp32] [--peers-only]

Writes results/cpu_<date>.csv; models and precisions measured again replace their rows there.
"""

import argparse
import sys
from datetime import date
from pathlib import Path

from torch2rt.bench import bench

HERE = Path(__file__).parent
MODELS = ("resnet50", "mobilenet_v2", "resnet18", "bert_base")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--vs", default="eager,compile,onnxruntime,openvino")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers-only", action="store_true")
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    default = HERE / "results" / f"cpu_{date.today().isoformat()}.csv"
    parser.add_argument("--output", type=Path, default=default)
    args = parser.parse_args()
    for name in args.models.split(","):
        result = bench(
            f"{HERE / 'models.py'}:{name}",
            vs=args.vs.split(","),
            precision=args.precision.split(","),
            rounds=args.rounds,
            threads=args.threads,
            ours=not args.peers_only,
            output_csv=args.output,
            realtime=args.realtime,
            progress=not args.quiet,
        )
        sys.stdout.write(result.table() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
