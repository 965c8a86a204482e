"""Fractal training images from iterated function systems (Anderson & Farrell 2022). Knows no files and no parts."""
