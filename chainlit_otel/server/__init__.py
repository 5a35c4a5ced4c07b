"""What answers a scrape: the exposition of the metrics and the server that serves it."""
