"""I/O with the API server: client, feed, keyed queue, lease, events."""
