"""What the tutorial notebooks share."""
