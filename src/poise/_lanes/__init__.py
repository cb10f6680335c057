"""How a call reaches a worker, and how its answer comes back: the caller's end."""
