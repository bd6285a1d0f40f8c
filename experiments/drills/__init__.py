"""Drills: scripts that do to the project what the world will, and count what happened."""
