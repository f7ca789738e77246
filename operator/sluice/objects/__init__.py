"""From a spec to Kubernetes objects as plain dicts.  Pure."""
