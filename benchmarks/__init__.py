"""Time and memory of one training step, beside other frameworks, a plain PyTorch loop and the machine's limits.

    python3 -m benchmarks.linear_lif --neurons 128 512 2048 --threads 2

Every framework runs in a process of its own; after warm-up, one repetition of each is timed in turn, so that a load on
the machine meets all of them. `python3 -m benchmarks.<item> --help` lists the options. docs/performance.md has tables.
"""
