"""Master calibrations from many frames: bias, dark, flat and the map of defects."""
