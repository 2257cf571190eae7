"""Showing what a run does and what it gave."""
