"""Simulated worlds for the pure rooms."""
