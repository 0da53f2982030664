"""Real or bogus: a classifier that each survey trains on injections into its own images and on its own detections."""
