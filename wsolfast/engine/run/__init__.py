"""Parts that every command on a run needs: its folder, its records, its processes."""
