"""Reports: the page and its figures."""
