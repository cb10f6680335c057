"""One pool for many processes: its owner, an actor that holds the engine, and its clients, who reach that as a worker."""
