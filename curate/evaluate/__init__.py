"""How good labels and predictions are, as pure functions of arrays. What never lives here: files and file names."""
