"""Examples: this project used from within others."""
