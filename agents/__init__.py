"""Who decides: policies over the environment, learned and training-free."""
