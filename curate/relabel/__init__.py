"""Label maps: what a classifier sees where in an image, as pure functions of arrays. What never lives here: files."""
