"""The alert archive: every alert byte for byte, in Avro container files by night, with an index by alert id."""
