"""The model server: sans-IO protocols, endpoints, counters, loaders."""
