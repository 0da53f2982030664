"""Alert packing: a source, its history, its object and its stamps become one packet."""
