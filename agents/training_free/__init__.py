"""Agents that learn nothing: the rivals and the bounds."""
