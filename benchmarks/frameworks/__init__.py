"""The items, written in each framework: a function per item takes the problem and returns the step to be timed.

Each module names its neuron in ``MODEL`` and has ``version()``. A file of the user's own (--path NAME=FILE) does the
same.
"""
