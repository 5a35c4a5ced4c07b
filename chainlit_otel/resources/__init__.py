"""What the app names to have it observed: pools of connections, and caches."""
