"""One pool for many processes: its owner, an actor that holds the engine, and clients, who reach that as a worker."""
