"""Concepts (clusters) of unit vectors: training centroids and assigning rows to them. Knows no files and no parts."""
