"""Raw files become exposures: identity, time, band and pointing by the camera's header map."""
