"""Deciding per row: predicates over columns."""
