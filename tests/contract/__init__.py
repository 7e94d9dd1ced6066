"""What the simulated registry promises, held against a real one."""
