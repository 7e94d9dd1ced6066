"""Rules, one by one: no socket, no sleep, no clock."""
