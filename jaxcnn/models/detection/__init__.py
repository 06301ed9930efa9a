"""Models that find objects: the map of each level gives classes and boxes at every place."""
