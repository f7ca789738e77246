"""The process node: plays the kubelet and runs pods as local processes."""
