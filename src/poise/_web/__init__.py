"""What `poise.asgi` gives an application: its pools, the scope of one request, and the live page."""
