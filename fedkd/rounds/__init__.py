"""Rounds of a federation: synchronous, asynchronous, decentralized; who takes part."""
