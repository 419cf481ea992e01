"""The method: losses, penalties, predictors, correctors and tracers of loss-vs-sparsity paths."""
