"""Exact gradients of spike times (Wunderlich & Pehle 2021), event by event and on the grid."""
