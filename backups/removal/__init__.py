"""Removing what no backup needs any more: roots, runs, reconciling, adopting."""
