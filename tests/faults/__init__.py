"""Faults on real parts: kills at exact and at random moments, power cuts with what a disk really held, full disks."""
