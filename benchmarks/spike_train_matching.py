"""E: one epoch of spike-train matching, 1 or 10 trials: python3 -m benchmarks.spike_train_matching"""

from benchmarks.command import OURS, compare, parser
from benchmarks.problems import Matching


def main() -> None:
    p = parser(__doc__, batch=[1, 10], steps=189)
    p.set_defaults(frameworks=[OURS, "torch_loop", "torch_explicit"])
    args = p.parse_args()
    compare("spike_train_matching", (Matching(b, args.steps, args.device, args.threads) for b in args.batch), args)


if __name__ == "__main__":
    main()
