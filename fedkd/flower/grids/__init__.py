"""Flower's grid, served by local clients or by the engines."""
