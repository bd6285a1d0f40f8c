"""How the weights that ship were made: pictures, recipes, one training loop, model cards. `experiments/make_weights.py` runs it."""
