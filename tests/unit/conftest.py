"""Properties are tried the same way each time, and as long as they take: a busy machine is no fault of the code."""

from hypothesis import settings

settings.register_profile("unit", deadline=None, derandomize=True)
settings.load_profile("unit")
