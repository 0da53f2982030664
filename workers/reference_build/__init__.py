"""A sharded reference catalogue from a user's extracts: read, name the columns, join, write."""
