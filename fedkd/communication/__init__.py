"""What crosses the network: the channel, and the compression of messages."""
