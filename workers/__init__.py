"""The astronomy: rooms of pure functions, thin workers on topics, and the command line. Knows no Kafka."""
