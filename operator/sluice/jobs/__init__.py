"""What runs in Jobs and init containers: fetch and validate."""
