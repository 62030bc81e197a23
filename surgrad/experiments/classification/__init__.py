"""Deep recurrent convolutional networks on spoken digits, SHD and Randman (Gygax & Zenke 2025)."""
