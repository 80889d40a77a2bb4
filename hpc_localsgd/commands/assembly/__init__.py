"""From options to objects: the one place that knows every floor."""
