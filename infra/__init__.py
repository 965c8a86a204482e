"""Scripts around the package: nothing here is installed with it."""
