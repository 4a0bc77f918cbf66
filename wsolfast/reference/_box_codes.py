"""The switches of a box rule as the ops' schemas carry them: an int is an index into its tuple here."""

INTERPOLATIONS = ("none", "cubic", "linear", "linear_corners")
NORMALIZATIONS = ("none", "minmax", "minmax_eps", "max", "min")
COMPARISONS = (">", ">=")
SELECTIONS = ("contour_area", "box_area", "pixel_area", "union", "all")
BOX_ENDS = ("clipped", "exclusive", "inclusive")
HITS = (">=", ">")
GTS = ("any", "first")
