"""How well it went: sources against truth, the report of a night, its pictures."""
