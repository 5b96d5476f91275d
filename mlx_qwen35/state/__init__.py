"""What a sequence remembers: caches, snapshots, the prefix cache, and their files."""
