"""Run folders: written by experiments, read by everybody; `python3 -m surgrad.runs` lists and compares them."""

from surgrad.former import names_of

__getattr__ = names_of("surgrad.runs.folder", "surgrad.runs.record")
