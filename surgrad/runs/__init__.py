"""Run folders: written by experiments, read by everybody; `python3 -m surgrad.runs` lists and compares them."""
