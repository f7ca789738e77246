"""The kopf process: wires feed -> observe -> decide -> apply."""
