"""What every stage shares about pixels: exposures, masks, PSF, WCS, warping, detection, measurement, files."""
