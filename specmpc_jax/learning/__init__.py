"""Training of world models: the update, its data and the online loop."""
