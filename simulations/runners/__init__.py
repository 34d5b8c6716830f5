"""One run of each kind of experiment: an experiment in, records out."""
