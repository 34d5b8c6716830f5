"""`kdsim audit`: attacks (`kdattacks`) on what runs exchange; what mechanisms provably leak."""
