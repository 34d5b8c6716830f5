"""What a server needs that learns from models alone: made inputs, and the models together."""
