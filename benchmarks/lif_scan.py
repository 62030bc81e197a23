"""B: LIF neurons driven by a current, forward and backward: python3 -m benchmarks.lif_scan"""

from benchmarks.command import compare, parser
from benchmarks.problems import LIFScan


def main() -> None:
    p = parser(__doc__, batch=[256], steps=350)
    p.add_argument("--neurons", type=int, nargs="+", default=[1024])
    args = p.parse_args()
    sizes = [(batch, n) for batch in args.batch for n in args.neurons]
    compare("lif_scan", (LIFScan(b, args.steps, args.device, args.threads, n) for b, n in sizes), args)


if __name__ == "__main__":
    main()
