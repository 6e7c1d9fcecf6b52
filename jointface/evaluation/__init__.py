"""Published protocols: they compare trained models and other methods."""
