"""Graphs in the files of their publishers."""
