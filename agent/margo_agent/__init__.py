"""The device agent: resolves, verifies, fetches, applies and reports."""
