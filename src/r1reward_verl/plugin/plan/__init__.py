"""`r1reward doctor --plan`: memory of each GPU by part and phase, from a model's shape and a composed config."""
