"""Runs compared: intervals, tables, claims, selection."""
