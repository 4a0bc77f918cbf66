"""``python -m wsolfast.compat.wsolevaluation``."""

from wsolfast.compat.wsolevaluation import main

main()
