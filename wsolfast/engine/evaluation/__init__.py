"""From images to score maps to numbers."""
