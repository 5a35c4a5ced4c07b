"""Chat sessions in Redis: the store, the history, limits, and Chainlit's data layer on them."""
