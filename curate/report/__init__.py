"""The report of a run as one self-contained HTML page: bookkeeping in, text out, no effects."""
