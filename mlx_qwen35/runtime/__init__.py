"""Running requests: the engine, the memory ledger, the thread that owns MLX."""
