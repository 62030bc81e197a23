"""C: recurrent network 700-128-128-20, one Adam step: python3 -m benchmarks.recurrent"""

from benchmarks.command import compare, parser
from benchmarks.problems import Recurrent


def main() -> None:
    p = parser(__doc__, batch=[128], steps=350)
    p.add_argument("--density", type=float, nargs="+", default=[0.02], help="of input spikes")
    args = p.parse_args()
    sizes = [(batch, density) for batch in args.batch for density in args.density]
    compare("recurrent", (Recurrent(b, args.steps, args.device, args.threads, d) for b, d in sizes), args)


if __name__ == "__main__":
    main()
