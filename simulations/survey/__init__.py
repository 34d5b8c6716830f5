"""Terms of the surveys as measured recipes, their claims, and the page of verdicts."""
