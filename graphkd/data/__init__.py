"""Graphs, collections of graphs, splits and neighbour sampling."""
