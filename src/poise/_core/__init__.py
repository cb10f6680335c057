"""The pure core: decides everything, does nothing. No I/O, no clock, no asyncio, no Ray."""
