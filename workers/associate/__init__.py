"""Association: difference-image sources find the objects they belong to, as of their visit."""
