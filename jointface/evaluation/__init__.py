"""Published protocols: what trained models and other methods are judged by."""
