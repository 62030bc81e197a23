"""Files and generators of data sets."""
