"""SuperSpike online (Zenke & Ganguli 2018)."""
