"""Clients resident in Ray actors."""
