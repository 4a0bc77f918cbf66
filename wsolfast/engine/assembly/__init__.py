"""From a recipe to its parts, and from checkpoints to networks."""
