"""Pages and plots to look at: of data, of evaluations, of training."""
