"""Fetching by URI: file, pvc, http(s), s3."""
