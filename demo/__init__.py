"""``make demo``: the product's main job, for real, in front of you."""
