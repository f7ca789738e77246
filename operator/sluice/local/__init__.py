"""An embedded real control plane and a process node, for laptops, demo and tests."""
