"""What the fuzz drill is made of: a file for each kind of input. Each offers generators of trials: see `trials.Trials`."""
