"""I/O: reads router and pod counters and turns them into looks."""
