"""D: one training step of the deep recurrent ConvSNN of Gygax & Zenke (2025): python3 -m benchmarks.convsnn_step"""

from itertools import product

from benchmarks.command import OURS, compare, parser
from benchmarks.problems import ConvSNNStep

MODES = {"deterministic": False, "stochastic": True}


def main() -> None:
    p = parser(__doc__, batch=[64, 400], steps=350)
    p.set_defaults(frameworks=[OURS, "torch_loop"])
    p.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    p.add_argument("--density", type=float, nargs="+", default=[0.02], help="of input spikes")
    p.add_argument("--gain", type=float, default=7.75, help="scale of the first layer's weights: hidden activity")
    args = p.parse_args()
    cases = product(args.batch, args.mode, args.density)
    common = (args.steps, args.device, args.threads)
    compare("convsnn_step", (ConvSNNStep(b, *common, MODES[m], d, args.gain) for b, m, d in cases), args)


if __name__ == "__main__":
    main()
