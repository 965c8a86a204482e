"""How people keep image data: one file a layout, and one way to list, index and read them all."""
