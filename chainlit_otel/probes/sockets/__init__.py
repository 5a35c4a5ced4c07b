"""The sockets of browsers: their connections, and what comes in by them."""
