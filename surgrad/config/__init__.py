"""From a command line to checked settings and built objects; knows no suite."""
