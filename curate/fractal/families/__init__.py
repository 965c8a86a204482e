"""Kinds of classes, one file each, behind the interface of `base.py`."""
