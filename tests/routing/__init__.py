"""The gain router: its measures, thresholds, learning, files, guard and decisions."""
