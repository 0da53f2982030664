"""Single-frame characterization: background, PSF, WCS and zero point of one exposure."""
