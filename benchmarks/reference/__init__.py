"""Best known fronts, and the command that improves them."""
