"""What people look at: the last fifteen minutes of a pool, in a terminal or a page."""
