"""margo-agent doctor: looks at everything a device needs, and says what to do. Each check is bounded in time."""
