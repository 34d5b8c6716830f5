"""`kdsim audit`: attacks on privacy (`kdattacks`) against what runs have exchanged and learnt."""
