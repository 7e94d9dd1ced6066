"""The outside world in memory: a registry and an engine that do as a test says, without a socket or a clock."""
