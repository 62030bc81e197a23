"""A: a linear layer N -> N and LIF neurons, forward and backward: python3 -m benchmarks.linear_lif"""

from benchmarks.command import compare, parser
from benchmarks.problems import LinearLIF


def main() -> None:
    p = parser(__doc__, batch=[16], steps=500)
    p.add_argument("--neurons", type=int, nargs="+", default=[128, 512, 2048, 4096])
    p.add_argument("--density", type=float, default=0.0, help="of spikes at the input; 0: real-valued input")
    args = p.parse_args()
    sizes = [(batch, n) for batch in args.batch for n in args.neurons]
    compare(
        "linear_lif", (LinearLIF(b, args.steps, args.device, args.threads, n, args.density) for b, n in sizes), args
    )


if __name__ == "__main__":
    main()
