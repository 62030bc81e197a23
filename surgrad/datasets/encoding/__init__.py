"""Values, images and sound turned into spikes."""
