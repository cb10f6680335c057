"""The engine: performs what the core decides, on the caller's own event loop."""
