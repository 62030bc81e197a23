"""Traces of the published implementations and their replay."""
