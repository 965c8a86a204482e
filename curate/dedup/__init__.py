"""Duplicate decisions on arrays: exact keys and the SemDeDup rule. Knows no files and no parts."""
