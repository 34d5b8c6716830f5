"""Losses by what is transferred: responses, features, relations, information, rankings."""
