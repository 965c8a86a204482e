"""Shards in, column groups out: safe reading, whole-file commits, fingerprints. Knows no stage."""
