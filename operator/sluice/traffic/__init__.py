"""I/O with what routes: HAProxy's runtime API over mutual TLS."""
