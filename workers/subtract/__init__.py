"""Image subtraction: PSF matching, the difference with honest noise, its sources and their measurements."""
