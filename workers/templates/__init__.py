"""Templates: the prior-year exposures of each sky cell, combined, with their inputs on record."""
