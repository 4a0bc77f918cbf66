"""From the events of a run to programs that draw and keep them."""
