"""Instrument signature removal: raw counts become electrons with a mask, a variance and a nominal WCS."""
