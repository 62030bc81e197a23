"""`python3 -m surgrad` is the command `surgrad`."""

from surgrad.cli import main

main()
