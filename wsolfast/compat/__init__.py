"""Stand-ins for other people's modules, on this library's engine."""
