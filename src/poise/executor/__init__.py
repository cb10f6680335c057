"""The pool as a `concurrent.futures.Executor`, for code without an event loop."""
