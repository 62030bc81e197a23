"""Dense networks: tutorials, robustness, heterogeneity, delays, adaptation."""
