"""The model package: manifest, digest, content sniffing, conversion and parity, trust classes."""
