"""Data of one's own: arrays, tables, folders and data sets of other libraries, as a `Dataset`."""
