"""Hostile input: every parser of what comes from outside, under inputs that somebody made up (`make fuzz`)."""
