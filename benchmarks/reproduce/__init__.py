"""Programs that repeat published experiments, at the scale that a test machine allows."""
